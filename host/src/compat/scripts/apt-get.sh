apt-get -q update >log 2>&1 || { tail -n 5 log; exit 1; }
apt-get -q -y --no-install-recommends install hello >log 2>&1 || { tail -n 20 log; exit 1; }
[ "$(hello)" = "Hello, world!" ]
apt-get -q -y purge hello >log 2>&1 && ! command -v hello
dpkg --audit
apt-get --version >version && head -n 1 version
