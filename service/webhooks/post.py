"""How an endpoint is called: one POST to an address that was looked at. The one door at which aiohttp's exceptions end.

No redirects, no proxies, no cookies, no connection used twice.
"""

import asyncio
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import aiohttp

from adapters.errors import InvalidValue
from adapters.webhooks import Outcome
from service.webhooks.guard import Address, Guard, Target

_CONNECT_S = 5.0
#: Read of an answer, so that a short one ends in peace. What it says is of no interest.
_READ_BYTES = 4096
#: Name look-ups block, and a name service that is silent does so for long. Not in the threads that requests use.
_LOOKUPS = 8


class Postman:
    """Makes calls. `tls` says whom to trust; by default whom the system trusts."""

    def __init__(self, guard: Guard, *, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        self._guard, self._timeout, self._tls = guard, timeout, tls
        self._lookups = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="webhook-lookup")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Call, once. Whatever the other side does is an outcome and no exception."""
        try:
            async with asyncio.timeout(self._timeout):
                loop = asyncio.get_running_loop()
                target = await loop.run_in_executor(self._lookups, self._guard.check, url)
                return await self._post(target, body, headers)
        except InvalidValue as error:
            return Outcome(status=None, error=error.message)
        except TimeoutError:
            return Outcome(status=None, error=f"no answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(
                status=None, error=f"no answer: {str(error) or type(error).__name__}"[:500]
            )

    def close(self) -> None:
        """Let the threads go."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Outcome:
        for address in target.addresses[:-1]:
            try:
                return await self._post_to(target, address, body, headers)
            except aiohttp.ClientConnectorError:
                continue  # nothing was sent; the next address of the same name may be up
        return await self._post_to(target, target.addresses[-1], body, headers)

    async def _post_to(
        self, target: Target, address: Address, body: bytes, headers: Mapping[str, str]
    ) -> Outcome:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.post(
                target.url_at(address),
                data=body,
                headers={**headers, "Host": target.host_header},
                allow_redirects=False,
                ssl=self._tls or True,
                server_hostname=target.host if target.scheme == "https" else None,
            ) as response,
        ):
            await response.content.read(_READ_BYTES)
            return _outcome(response.status)


def _outcome(status: int) -> Outcome:
    match status // 100:
        case 2:
            return Outcome(status=status)
        case 3:
            error = f"it answered {status}, and redirects are not followed"
        case _:
            error = f"it answered {status}"
    return Outcome(status=status, error=error, gone=status == HTTPStatus.GONE)
