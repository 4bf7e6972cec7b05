python3 - <<'P'
import asyncio, sys
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper()); await writer.drain()
    writer.close()
async def client(port, n):
    r, w = await asyncio.open_connection('127.0.0.1', port)
    for i in range(20):
        w.write(b'client %d line %d\n' % (n, i))
        assert await r.readline() == b'CLIENT %d LINE %d\n' % (n, i)
    w.close(); await w.wait_closed()
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(client(port, n) for n in range(50)))
    p = await asyncio.create_subprocess_exec('cat', stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    out, _ = await p.communicate(b'x' * 1000000); assert len(out) == 1000000
    try:
        async with asyncio.timeout(0.1): await asyncio.Event().wait()
        raise SystemExit('no time limit')
    except TimeoutError: pass
    assert await asyncio.to_thread(lambda: 42) == 42
    server.close()
asyncio.run(main())
print('50 clients, subprocess, time limit, thread')
P
