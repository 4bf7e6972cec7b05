svnadmin create repo && svn co -q "file://$PWD/repo" wc && cd wc
mkdir trunk && seq 1000 >trunk/a && svn add -q trunk && svn ci -q -m first
head -c 100000000 /dev/urandom >trunk/big && svn add -q trunk/big && svn ci -q -m big
sed -i s/500/five/ trunk/a && svn diff | grep -q '^+five' && svn ci -q -m change && cd ..
[ "$(svn log -q "file://$PWD/repo" | grep -c '^r')" = 3 ] && svnadmin verify -q repo
printf '[general]\nanon-access = write\n' >repo/conf/svnserve.conf
svnserve -d -r "$PWD" --listen-host 127.0.0.1 --pid-file pid
for _ in $(seq 100); do svn info svn://127.0.0.1/repo >/dev/null 2>&1 && break; sleep 0.2; done
svn co -q svn://127.0.0.1/repo wc2 && cmp wc/trunk/big wc2/trunk/big && [ -z "$(svn status wc2)" ]
echo more >>wc2/trunk/a && svn ci -q --username u -m net wc2 && svn up -q wc && cmp wc/trunk/a wc2/trunk/a
kill "$(cat pid)"
svn --version -q
