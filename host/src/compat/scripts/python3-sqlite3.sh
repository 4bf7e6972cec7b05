python3 - <<'P'
import sqlite3, threading
d = sqlite3.connect('x.db'); d.execute('pragma journal_mode=wal')
d.execute('create table t(a integer primary key, b text)')
with d: d.executemany('insert into t(b) values(?)', (('row %d' % i,) for i in range(5000)))
def reader(): c = sqlite3.connect('x.db'); assert c.execute('select count(*) from t').fetchone()[0] >= 5000
ts = [threading.Thread(target=reader) for _ in range(4)]; [t.start() for t in ts]; [t.join() for t in ts]
assert d.execute("select a from t where b = 'row 4321'").fetchone() == (4322,)
assert d.execute('pragma integrity_check').fetchone() == ('ok',)
print('sqlite', sqlite3.sqlite_version)
P
