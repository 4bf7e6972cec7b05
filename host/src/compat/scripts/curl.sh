mkdir www && head -c 3000000 /dev/urandom >www/big && echo small >www/small
python3 -u -m http.server 8080 --bind 127.0.0.1 -d www >log 2>&1 &
for _ in $(seq 100); do curl -sf http://127.0.0.1:8080/small >/dev/null && break; sleep 0.2; done
[ "$(curl -sf http://127.0.0.1:8080/small)" = small ]
curl -sf http://127.0.0.1:8080/big | cmp - www/big
curl -sf -Z --output one http://localhost:8080/big --output two http://localhost:8080/small && cmp one www/big
status=0; curl -sf http://127.0.0.1:8080/none || status=$?; [ "$status" = 22 ]
status=0; curl -s http://127.0.0.1:9 || status=$?; [ "$status" = 7 ]
[ -z "${HOST_URL:-}" ] || curl -sf "$HOST_URL" | grep -qx 'served by the host'
curl --version | sed -n 1p
