"""The toy saga for the tests here, and what is logged."""

from log_lines import lines
from toy_fixtures import another, saga, toy_database, toy_database_url, toy_url

__all__ = ["another", "lines", "saga", "toy_database", "toy_database_url", "toy_url"]
