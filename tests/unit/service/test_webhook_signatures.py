import base64
import time

import pytest
from hypothesis import given, settings, strategies as st
from openai import InvalidWebhookSignatureError, OpenAI

from adapters.errors import InvalidValue
from service.webhooks.sign import check_secret, new_secret, signed_headers

client = OpenAI(api_key="unused")


def test_the_example_of_the_specification_comes_out_as_printed_there() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, the vector of its libraries' own tests
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@settings(deadline=None, database=None)
@given(body=st.text(), message_id=st.from_regex(r"evt_[0-9A-Za-z]{24}", fullmatch=True))
def test_openais_sdk_takes_what_is_signed_here(body: str, message_id: str) -> None:
    secret, raw = new_secret(), body.encode("utf-8", "replace")
    headers = signed_headers([secret], message_id=message_id, timestamp=int(time.time()), body=raw)
    client.webhooks.verify_signature(raw, headers, secret=secret)
    for wrong in ({"webhook-id": "evt_x"}, {"webhook-timestamp": str(int(time.time()) + 9)}):
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.verify_signature(raw, headers | wrong, secret=secret)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(raw + b".", headers, secret=secret)


def test_either_of_two_secrets_opens_what_both_have_signed() -> None:
    new, old, other = new_secret(), new_secret(), new_secret()
    headers = signed_headers([new, old], message_id="evt_1", timestamp=int(time.time()), body=b"{}")
    client.webhooks.verify_signature(b"{}", headers, secret=new)
    client.webhooks.verify_signature(b"{}", headers, secret=old)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(b"{}", headers, secret=other)


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_of_24_to_64_bytes_will_do(key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    assert check_secret(secret, param="secret") == secret


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "password",
        "whsec_",
        "whsec_short",
        "whsec_" + "!" * 40,
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + "ä" * 40,
        base64.b64encode(bytes(32)).decode(),
    ],
)
def test_another_secret_is_refused(secret: str) -> None:
    with pytest.raises(InvalidValue, match=r"webhook\.secret must be 'whsec_'"):
        check_secret(secret, param="webhook.secret")
