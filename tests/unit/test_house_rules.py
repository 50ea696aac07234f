"""Rules about the project's own files: Makefile, pins, compose file, documents."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nancalacc.config import ConnectionInfo, DingTalkSettings, Settings, WpsSettings
from nancalacc.saga.state import EventType

PROJECT = Path(__file__).parents[2]
COMPOSE_TEXT = (PROJECT / "docker-compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCUMENTS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
READMES = ("README.md", "README.zh-CN.md")
FROM_PROVIDERS = {"celery": "celery provider", "users": "fab provider"}
EXECUTABLES = {"postgres", "redis-server", "redis-cli", "pg_isready", "curl", "bash"}
IMAGE_AIRFLOW = re.compile(r"FROM apache/airflow:(\S+)")


def text_of(name: str) -> str:
    return (PROJECT / name).read_text()


def requirements(name: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in text_of(name).splitlines():
        line = line.split(" #")[0].strip()
        if line and not line.startswith(("#", "-r")):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def make_targets() -> list[str]:
    return re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), flags=re.MULTILINE)


def variables(text: str) -> Iterator[tuple[str, str]]:
    """Names that Compose replaces, with what stands behind the name."""
    yield from re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text)


def example_variables() -> dict[str, str]:
    lines = [line for line in text_of(".env.example").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


# --- pins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "constraints.txt"])
def test_every_requirement_is_pinned_exactly(name: str) -> None:
    for found in requirements(name).values():
        for requirement in found:
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_constraints_agree_with_the_requirements(name: str) -> None:
    constraints = requirements("constraints.txt")
    for key, found in requirements(name).items():
        assert {str(pin.specifier) for pin in constraints[key]} == {str(pin.specifier) for pin in found}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "constraints.txt"])
def test_pins_name_no_place_to_download_from(name: str) -> None:
    assert not re.search(r"://|--(index|extra|find|trusted)|/(root|home|tmp|opt)/", text_of(name))


# --- Makefile ------------------------------------------------------------------------------------


def test_make_alone_lists_the_targets_people_use() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=PROJECT, capture_output=True, text=True)

    assert said.returncode == 0, said.stderr
    for target in ("help", "demo", "demo-failure", "test", "test-fast", "bench", "lint"):
        assert re.search(rf"^ +{target} ", said.stdout, flags=re.MULTILINE), said.stdout


def test_every_listed_target_is_phony() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", text_of("Makefile"), flags=re.MULTILINE)
    assert set(make_targets()) <= set(" ".join(phony).split())


@pytest.mark.parametrize(
    "python, said",
    [("no-such-python", "no-such-python is missing"), ("./old-python", "does not do: install Python 3.11")],
)
def test_a_missing_or_old_python_gives_one_line(python: str, said: str, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "constraints.txt"):
        (tmp_path / name).write_text(text_of(name))
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)

    done = subprocess.run(
        ["make", "--no-print-directory", "venv", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert said in done.stdout
    assert len(done.stdout.splitlines()) == 1


# --- Compose -------------------------------------------------------------------------------------


def test_compose_has_the_parts_of_a_production_installation() -> None:
    assert set(SERVICES) == {
        "postgres",
        "redis",
        "init",
        "api-server",
        "scheduler",
        "dag-processor",
        "triggerer",
        "worker",
        "listener",
    }


def test_compose_runs_the_airflow_that_is_tested() -> None:
    pinned = requirements("requirements.txt")["apache-airflow"][0].specifier
    images = {
        IMAGE_AIRFLOW.search(service["build"]["dockerfile_inline"])
        for service in SERVICES.values()
        if "build" in service
    }
    assert {f"=={found[1]}" for found in images if found} == {str(pinned)}


def test_compose_copies_what_exists() -> None:
    copied = re.findall(r"COPY (\S+) ", SERVICES["init"]["build"]["dockerfile_inline"])
    assert set(copied) == {"requirements.txt", "include", "plugins", "dags"}
    assert all((PROJECT / name).exists() for name in copied)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "init"])
def test_a_long_running_service_restarts_and_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


@pytest.mark.parametrize("name", list(SERVICES))
def test_a_service_waits_for_a_condition_that_can_come_true(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", ["scheduler", "triggerer", "worker"])
def test_what_starts_tasks_waits_for_the_api_server(name: str) -> None:
    assert SERVICES[name]["depends_on"]["api-server"]["condition"] == "service_healthy"


def commands(service: dict[str, Any]) -> Iterator[list[str]]:
    """Every command line of a service, split into words."""
    for line in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
        words = [word for word in line if word not in {"CMD", "CMD-SHELL"}]
        if words and (words[:2] == ["bash", "-c"] or line[0] == "CMD-SHELL"):
            yield from (part.split() for part in words[-1].split("&&"))
        elif words:
            yield words


def airflow_commands() -> set[str]:
    from airflow.cli.cli_parser import airflow_commands as known

    return {command.name for command in known}


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_command_is_one_that_exists(name: str) -> None:
    known = airflow_commands()
    for words in commands(SERVICES[name]):
        if words[0] == "airflow" or (words[0] in known | set(FROM_PROVIDERS) and words[0] != "celery"):
            command = words[1] if words[0] == "airflow" else words[0]
            assert command in known or command in FROM_PROVIDERS, words
        else:
            assert words[0] in EXECUTABLES | {"celery", "python"}, words


def test_init_upgrades_both_schemas_and_creates_the_first_user() -> None:
    started = [words[:3] for words in commands(SERVICES["init"])]
    assert started == [
        ["airflow", "db", "migrate"],
        ["python", "-m", "nancalacc"],
        ["airflow", "users", "create"],
    ]


def test_every_airflow_setting_of_compose_is_one_airflow_knows() -> None:
    from airflow.configuration import conf

    for name in SERVICES["scheduler"]["environment"]:
        if name.startswith("AIRFLOW__"):
            section, key = name.lower().removeprefix("airflow__").split("__")
            known = key in (conf.configuration_description.get(section) or {}).get("options", {})
            assert known or section == "celery", name


def test_every_setting_of_ours_in_compose_has_the_programs_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["scheduler"]["environment"].items():
        if name.startswith("NANCALACC_"):
            monkeypatch.setenv(name, re.fullmatch(r"\$\{\w+:-(.*)\}", value)[1])  # type: ignore[index]
    assert Settings.from_env() == Settings()


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    for name, rest in variables(COMPOSE_TEXT):
        if re.search(r"PASSWORD|SECRET|KEY|AIRFLOW_CONN_", name):
            assert rest.startswith(":?"), name


def test_every_variable_of_compose_is_explained_and_every_explained_one_used() -> None:
    assert {name for name, _ in variables(COMPOSE_TEXT)} == set(example_variables())


def test_defaults_of_compose_are_those_of_the_example() -> None:
    example = example_variables()
    for name, rest in variables(COMPOSE_TEXT):
        if rest.startswith(":-"):
            assert example[name] == rest[2:], name


@pytest.mark.parametrize("name", ["AIRFLOW_CONN_DINGTALK_DEFAULT", "AIRFLOW_CONN_WPS_DEFAULT"])
def test_the_example_connections_are_accepted(name: str) -> None:
    text = example_variables()[name]
    assert text[0] == text[-1] == "'", "Compose takes the text as it is only in single quotes"
    values = yaml.safe_load(text[1:-1])
    assert values.pop("conn_type") == "http"
    connection = ConnectionInfo(conn_id="example", **values)
    settings = DingTalkSettings if "DINGTALK" in name else WpsSettings
    assert settings.of(connection).conn_id == "example"


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", make_targets())
def test_contributing_tells_of_every_target(target: str) -> None:
    assert f"make {target}`" in text_of("CONTRIBUTING.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_in_a_document_exists(name: str) -> None:
    mentioned = set(re.findall(r"`(?:\w+=\S+ )*make ([a-z-]+)", text_of(name)))
    assert mentioned
    assert mentioned <= set(make_targets())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_linked_file_exists(name: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text_of(name))
    missing = [link for link in links if not (PROJECT / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_both_readmes_explain_every_setting(name: str) -> None:
    text = text_of(name)
    asked = re.findall(r"NANCALACC_[A-Z_]+", text_of("include/nancalacc/config.py"))
    keys = re.findall(
        r"connection\.(?:text|number|flag|choice)\(\s*\"(\w+)\"", text_of("include/nancalacc/config.py")
    )
    assert asked
    assert keys
    missing = [word for word in {*asked, *keys} if f"`{word}`" not in text]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_both_readmes_name_the_types_of_events_beyond_those_of_steps_and_sagas(name: str) -> None:
    of_the_contract = r"(step|saga)_\w+|compensation_(started|completed)"
    types = {each.value for each in EventType if not re.fullmatch(of_the_contract, each.value)}
    assert len(types) > 5
    assert {each for each in types if f"`{each}`" not in text_of(name)} == set()


def test_both_readmes_have_the_same_tables_and_code() -> None:
    shapes = []
    for name in READMES:
        lines = text_of(name).splitlines()
        cells = [re.findall(r"`[^`]+`", line.split("|")[1]) for line in lines if line.startswith("|")]
        code = [line.split(" #")[0].rstrip() for line in lines if line.startswith("$ ")]
        shapes.append(([cell for cell in cells if cell], code))
    assert shapes[0] == shapes[1]


def test_decisions_are_numbered_without_gaps_and_complete() -> None:
    decisions = sorted((PROJECT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for path in decisions:
        assert re.findall(r"^## (.*)$", path.read_text(), flags=re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]
