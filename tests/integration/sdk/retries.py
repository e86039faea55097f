"""Asks a server that refuses everything: `python retries.py BASE_URL CASE...`, by the interpreter that has the SDK.

Imports nothing of the project, as scenarios.py. Prints one JSON object: by case, the class of the error that it met.
"""

import asyncio
import json
import sys

import openai


async def outcome(client: openai.AsyncOpenAI, case: str) -> str:
    try:
        await client.models.retrieve(case)
    except openai.APIStatusError as error:
        return type(error).__name__
    return "answered"


async def main() -> None:
    base_url, *cases = sys.argv[1:]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=2) as client:
        found = await asyncio.gather(*(outcome(client, case) for case in cases))
    told = {"version": openai.__version__, "found": dict(zip(cases, found, strict=True))}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
