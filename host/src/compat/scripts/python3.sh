python3 - <<'P'
import collections, decimal, hashlib, json, os, re, sys, tempfile, time, zlib
assert hashlib.sha256(b'shimos').hexdigest() == hashlib.new('sha256', b'shimos').hexdigest()
assert json.loads(json.dumps({'a': [1, 2.5, None]})) == {'a': [1, 2.5, None]}
assert zlib.decompress(zlib.compress(b'x' * 100000)) == b'x' * 100000
with tempfile.NamedTemporaryFile() as f:
    f.write(b'line\n' * 1000); f.flush()
    assert os.stat(f.name).st_size == 5000
assert decimal.Decimal(2).sqrt().to_eng_string().startswith('1.41421356237')
assert sum(i * i for i in range(100000)) == 333328333350000
begin = time.monotonic(); time.sleep(0.05); assert time.monotonic() - begin >= 0.05
assert os.cpu_count() == 1 or not os.uname().version.startswith('Shimos')
print(sys.version.split()[0], sys.platform)
P
