for mode in delete wal; do
    sqlite3 $mode.db "pragma journal_mode=$mode; create table t(who, n);" | grep -qx $mode
    for who in a b; do
        { echo ".timeout 60000"; for n in $(seq 100); do echo "begin immediate; insert into t values('$who', $n); commit;"; done; } | sqlite3 $mode.db &
        pids+=($!)
    done
    wait "${pids[@]}"
    pids=()
    [ "$(sqlite3 $mode.db 'select count(*), sum(n) from t')" = "200|10100" ]
    sqlite3 $mode.db 'pragma integrity_check' | grep -qx ok
done
sqlite3 --version | cut -d' ' -f1
