a2dismod -q -f mpm_event mpm_prefork mpm_worker >/dev/null 2>&1 || true
a2enmod -q "mpm_$MPM" >/dev/null
sed -i 's/StartServers.*/StartServers 6/; s/MinSpareServers.*/MinSpareServers 6/' /etc/apache2/mods-available/mpm_prefork.conf
head -c 3000000 /dev/urandom >/var/www/html/big && echo small >/var/www/html/small
apache2ctl start 2>/dev/null
for _ in $(seq 150); do curl -sf http://127.0.0.1/small >/dev/null && break; sleep 0.2; done
[ "$(curl -sf http://127.0.0.1/small)" = small ] && curl -sf http://127.0.0.1/big | cmp - /var/www/html/big
tasks() { ps -eLo comm | grep -c '^apache2$'; }
[ "$MPM" = prefork ] && wanted=7 || wanted=50
for _ in $(seq 150); do [ "$(tasks)" -ge "$wanted" ] && break; sleep 0.2; done
[ "$(tasks)" -ge "$wanted" ]
apache2ctl -M 2>/dev/null | grep "mpm_${MPM}_module" >/dev/null
ab -q -k -n 200 -c 10 http://127.0.0.1/small >ab1 && grep -q '^Failed requests: *0' ab1
ab -q -n 60 -c 6 http://127.0.0.1/small >ab2 & load=$!
apache2ctl graceful 2>/dev/null
wait $load && grep -q '^Failed requests: *0' ab2
[ "$(curl -sf http://127.0.0.1/small)" = small ]
apache2ctl stop 2>/dev/null
for _ in $(seq 150); do pgrep -x apache2 >/dev/null || break; sleep 0.2; done
! pgrep -x apache2
apache2 -v | sed -n 1p
