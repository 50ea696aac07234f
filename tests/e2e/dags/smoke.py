"""A DAG of the tests: two tasks, the second fails when the run's configuration says so."""

from airflow.sdk import Param, dag, get_current_context, task


@dag(dag_id="smoke", schedule=None, params={"fail": Param(False, type="boolean")})
def smoke() -> None:
    @task
    def give() -> int:
        return 42

    @task
    def take(number: int) -> None:
        print(f"took {number}")
        if get_current_context()["params"]["fail"]:
            raise ValueError("as ordered")

    take(give())


smoke()
