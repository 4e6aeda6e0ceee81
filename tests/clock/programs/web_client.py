"""Starts uvicorn, loads it with Poisson arrivals over a virtual hour; prints the latencies."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time

import aiohttp

port, loop, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
line = ["-m", "uvicorn", "--app-dir", os.path.dirname(__file__), "web_app:app", "--loop", loop]
server = subprocess.Popen([sys.executable, *line, "--port", port, "--log-level", "warning"])


async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def get():
            begin = time.perf_counter()
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                await response.read()
            return time.perf_counter() - begin

        for _ in range(1000):
            try:
                await get()
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        rnd, at, tasks = random.Random(1), time.perf_counter(), []
        begin = at
        while at - begin < seconds:
            at += rnd.expovariate(count / seconds)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            tasks.append(asyncio.create_task(get()))
        latencies = await asyncio.gather(*tasks)
        return {"took": time.perf_counter() - begin, "latencies": latencies}


result = asyncio.run(main())
server.terminate()
server.wait()
print(json.dumps(result))
