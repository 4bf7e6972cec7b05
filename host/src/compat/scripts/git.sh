export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main repo && cd repo
for i in 1 2 3; do seq $((i * 1000)) >file$i && git add . && git commit -q -m "commit $i"; done
git checkout -q -b side HEAD~1 && echo side >s && git add s && git commit -q -m side && git checkout -q main && git merge -q -m merged side
[ "$(git log --oneline | wc -l)" = 5 ] && git gc -q && git fsck --strict 2>/dev/null
cd .. && git daemon --reuseaddr --base-path=. --export-all --listen=127.0.0.1 --port=9418 --detach --pid-file=pid
for _ in $(seq 50); do git ls-remote git://127.0.0.1/repo >/dev/null 2>&1 && break; sleep 0.2; done
git clone -q git://127.0.0.1/repo clone
cmp repo/file3 clone/file3 && [ "$(git -C clone rev-parse HEAD)" = "$(git -C repo rev-parse HEAD)" ]
kill "$(cat pid)"
git --version
