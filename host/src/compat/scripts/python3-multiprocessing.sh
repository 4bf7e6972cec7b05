cat >m.py <<'P'
import multiprocessing as mp, sys
def square(x): return x * x
def add(counter):
    for _ in range(500):
        with counter.get_lock(): counter.value += 1
def produce(q): [q.put(i) for i in range(100)]
if __name__ == '__main__':
    for method in ('fork', 'spawn', 'forkserver'):
        c = mp.get_context(method)
        with c.Pool(3) as pool: assert pool.map(square, range(50)) == [x * x for x in range(50)]
        counter = c.Value('i', 0)
        workers = [c.Process(target=add, args=(counter,)) for _ in range(3)]
        [w.start() for w in workers]; [w.join() for w in workers]
        assert counter.value == 1500, counter.value
        q = c.Queue(); p = c.Process(target=produce, args=(q,)); p.start()
        assert sum(q.get() for _ in range(100)) == 4950; p.join()
    from multiprocessing import shared_memory
    s = shared_memory.SharedMemory(create=True, size=10000); s.buf[:5] = b'hello'
    t = shared_memory.SharedMemory(s.name); assert bytes(t.buf[:5]) == b'hello'
    t.close(); s.close(); s.unlink()
    print('fork, spawn, forkserver: pool, value, queue; shared memory')
P
python3 m.py
