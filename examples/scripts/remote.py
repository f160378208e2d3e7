"""Four images at once from a server: MOLD_HOST names it, MOLD_API_KEY is its key. Needs no torch here."""

import asyncio

from mold_core import AsyncEngine, Client, GenerateRequest

PROMPTS = ("a red house", "a blue boat", "a black cat", "three green trees")


async def main() -> None:
    async with AsyncEngine(Client()) as engine:
        requests = (GenerateRequest(prompt=prompt, model="flux-nano", seed=7) for prompt in PROMPTS)
        for prompt, response in zip(PROMPTS, await asyncio.gather(*map(engine.generate, requests)), strict=True):
            print(response.images[0].save(f"{prompt}.png"))


asyncio.run(main())
