bin=$(ls -d /usr/lib/postgresql/*/bin)
mkdir pg && chown postgres pg && mkdir -p /run/postgresql && chown postgres /run/postgresql
as() { su postgres -c "PATH=$bin:\$PATH $*"; }
as initdb -D $PWD/pg/data >log 2>&1
as pg_ctl -D $PWD/pg/data -l $PWD/pg/log -w -t 120 start >/dev/null
as createdb bench && as pgbench -q -i -s 1 bench >/dev/null 2>&1
as pgbench -c 4 -j 2 -t 50 bench >result 2>/dev/null && grep -q 'processed: 200/200' result
[ "$(as psql -At -c "'select count(*) from pgbench_accounts'" bench)" = 100000 ]
[ "$(as psql -At -c "'select sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history'" bench)" = t ]
as pg_ctl -D $PWD/pg/data -m fast -w stop >/dev/null
as pg_ctl -D $PWD/pg/data -l $PWD/pg/log -w -t 120 start >/dev/null
[ "$(as psql -At -c "'select count(*) from pgbench_history'" bench)" = 200 ]
as pg_ctl -D $PWD/pg/data -m immediate -w stop >/dev/null
grep tps result | sed -n 1p
