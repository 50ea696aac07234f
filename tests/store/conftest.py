"""The toy saga for the tests here."""

from toy_fixtures import another, saga, toy_database, toy_database_url, toy_url

__all__ = ["another", "saga", "toy_database", "toy_database_url", "toy_url"]
