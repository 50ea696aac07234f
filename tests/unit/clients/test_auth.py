import asyncio

import pytest

from nancalacc.clients.auth import Token, TokenCache
from nancalacc.errors import ConfigurationError, TransientError


class Issuer:
    """Gives token-1, token-2 …, each valid for `expires_in`; fails while there are `errors`."""

    def __init__(self, *, expires_in: float = 7200) -> None:
        self.expires_in = expires_in
        self.fetches = 0
        self.errors: list[Exception] = []
        self.now = 0.0

    async def fetch(self) -> Token:
        self.fetches += 1
        await asyncio.sleep(0.01)
        if self.errors:
            raise self.errors.pop(0)
        return Token(value=f"token-{self.fetches}", expires_in=self.expires_in)

    def cache(self) -> TokenCache:
        return TokenCache(self.fetch, clock=lambda: self.now)


async def test_fifty_callers_share_one_fetch():
    issuer = Issuer()
    cache = issuer.cache()

    tokens = await asyncio.gather(*(cache.get() for _ in range(50)))

    assert set(tokens) == {"token-1"}
    assert issuer.fetches == 1


async def test_fifty_callers_whose_token_was_refused_share_one_renewal():
    issuer = Issuer()
    cache = issuer.cache()
    await cache.get()

    async def renew() -> str:
        cache.drop("token-1")
        return await cache.get()

    assert set(await asyncio.gather(*(renew() for _ in range(50)))) == {"token-2"}
    assert issuer.fetches == 2


async def test_a_late_refusal_of_the_old_token_keeps_the_new_one():
    issuer = Issuer()
    cache = issuer.cache()
    await cache.get()
    cache.drop("token-1")
    await cache.get()

    cache.drop("token-1")

    assert await cache.get() == "token-2"


@pytest.mark.parametrize(
    "expires_in, later, fetches",
    [(7200, 6899, 1), (7200, 6901, 2), (400, 199, 1), (400, 201, 2), (2, 0.9, 1), (2, 1.1, 2)],
)
async def test_a_token_is_renewed_before_it_expires(expires_in, later, fetches):
    issuer = Issuer(expires_in=expires_in)
    cache = issuer.cache()
    await cache.get()

    issuer.now = later
    await cache.get()

    assert issuer.fetches == fetches


async def test_a_failed_fetch_fails_everybody_who_waits_and_is_tried_anew_by_the_next():
    issuer = Issuer()
    issuer.errors = [ConfigurationError("wrong secret")]
    cache = issuer.cache()

    outcomes = await asyncio.gather(*(cache.get() for _ in range(50)), return_exceptions=True)

    assert all(isinstance(outcome, ConfigurationError) for outcome in outcomes)
    assert issuer.fetches == 1
    assert await cache.get() == "token-2"


async def test_who_comes_after_a_failure_does_not_see_it():
    issuer = Issuer()
    issuer.errors = [TransientError("busy"), TransientError("busy again")]
    cache = issuer.cache()

    with pytest.raises(TransientError, match=r"busy$"):
        await cache.get()
    with pytest.raises(TransientError, match="busy again"):
        await cache.get()


async def test_a_cancelled_fetch_is_taken_over_by_the_next_caller():
    issuer = Issuer()
    cache = issuer.cache()
    first, second = asyncio.create_task(cache.get()), asyncio.create_task(cache.get())
    await asyncio.sleep(0)

    first.cancel()

    assert await second == "token-2"
    assert first.cancelled() or first.cancelling()


def test_a_token_is_not_shown():
    assert "hidden" not in repr(Token(value="hidden", expires_in=1))
