mkdir -p a/b/c && touch a/1 a/b/2 a/b/c/3
[ "$(find a -type f | sort | tr '\n' ' ')" = "a/1 a/b/2 a/b/c/3 " ]
[ "$(find a -type f -print0 | xargs -0 -n1 -P3 basename | sort | tr -d '\n')" = 123 ]
find a -name 2 -delete && ! test -e a/b/2
[ "$(find / -xdev -maxdepth 1 -name etc)" = /etc ]
[ "$(find a -newer a/1 -o -perm 644 | wc -l)" -ge 1 ]
find --version | sed -n 1p
