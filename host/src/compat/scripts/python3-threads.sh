python3 - <<'P'
import queue, threading
from concurrent.futures import ThreadPoolExecutor
jobs, done = queue.Queue(), queue.Queue()
def work():
    while (n := jobs.get()) is not None:
        done.put(n * n)
threads = [threading.Thread(target=work) for _ in range(20)]
[t.start() for t in threads]
[jobs.put(n) for n in range(1000)]
[jobs.put(None) for _ in threads]
[t.join() for t in threads]
assert sum(done.get() for _ in range(1000)) == 332833500
barrier, counter, lock = threading.Barrier(10), [0], threading.Lock()
def count():
    barrier.wait()
    for _ in range(1000):
        with lock: counter[0] += 1
with ThreadPoolExecutor(10) as pool:
    [f.result() for f in [pool.submit(count) for _ in range(10)]]
assert counter == [10000]
condition = threading.Condition()
with condition:
    assert not condition.wait(0.05)
print('20 workers, barrier, pool, condition with a time limit')
P
