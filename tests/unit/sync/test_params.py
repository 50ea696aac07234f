import pytest

from nancalacc.errors import RefusedError
from nancalacc.sync.params import FullSyncParams, is_task_id


def test_no_parameters_are_the_defaults():
    params = FullSyncParams.of({})
    assert (params.dingtalk_conn_id, params.wps_conn_id) == ("dingtalk_default", "wps_default")
    assert (params.task_name, params.dry_run, params.allow_mass_delete) == (None, False, False)


@pytest.mark.parametrize(
    "params, named",
    [
        ({"dryrun": True}, "dryrun"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"dry_run": None}, "dry_run"),
        ({"allow_mass_delete": 1}, "allow_mass_delete"),
        ({"dingtalk_conn_id": ""}, "dingtalk_conn_id"),
        ({"wps_conn_id": None}, "wps_conn_id"),
        ({"task_name": 20240101000000}, "task_name"),
        ({"task_name": "20240230000000"}, "task_name"),
        ({"task_name": ""}, "task_name"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(params, named):
    with pytest.raises(RefusedError, match=f"'{named}'"):
        FullSyncParams.of(params)


@pytest.mark.parametrize(
    "value, valid",
    [
        ("20240229235959", True),
        ("20230229000000", False),
        ("20241301000000", False),
        ("20240101240000", False),
        ("2024010100000", False),
        ("202401010000000", False),
        ("２０２４０１０１００００００", False),
        ("20240101 00000", False),
        (None, False),
    ],
)
def test_a_task_id_is_fourteen_digits_of_a_real_moment(value, valid):
    assert is_task_id(value) is valid
