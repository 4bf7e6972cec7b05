#!/usr/bin/env bash
# Builds the kernel selftests of Debian's linux-source package that apply to what Shimos offers, and runs them.
#
#   run.sh build     fetch the package, take the selftests out of it, compile those of tests.list statically
#   run.sh host      run them on this machine's Linux
#   run.sh shimos    run them in a running machine (./shimos boot)
#
# Everything lies under build/selftests; nothing of the source is kept elsewhere. docs/selftests.md has the results.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/selftests
stage=$build/root
package=linux-source-6.1
# How long one test may take, in seconds.
patience=30

fetch() {
    mkdir -p "$build"
    local source=$build/$package/tools/testing/selftests
    [ -d "$source" ] && return
    (cd "$build" && apt-get download "$package")
    dpkg-deb --fsys-tarfile "$build"/${package}_*.deb | tar -x -C "$build" ./usr/src/$package.tar.xz
    tar -x -C "$build" -f "$build/usr/src/$package.tar.xz" "$package/tools/testing/selftests" "$package/tools/include"
    rm -rf "$build/usr" "$build"/${package}_*.deb
}

# A static busybox: this machine's, or that of Debian's package.
find_busybox() {
    if file -L /bin/busybox 2>/dev/null | grep -q static; then
        echo /bin/busybox
        return
    fi
    mkdir -p "$build/busybox"
    if [ ! -x "$build/busybox/bin/busybox" ]; then
        (cd "$build/busybox" && apt-get download busybox-static >&2 && dpkg-deb -x busybox-static_*.deb .)
    fi
    echo "$build/busybox/bin/busybox"
}

# What mq_open_tests reads its arguments with.
fetch_popt() {
    mkdir -p "$build/popt"
    [ -f "$build/popt/usr/include/popt.h" ] && return
    (cd "$build/popt" && apt-get download libpopt-dev >&2 && dpkg-deb -x libpopt-dev_*.deb .)
}

compile() {
    local source=$build/$package/tools/testing/selftests file rest out words
    mkdir -p "$stage/tests" "$stage/bin" "$stage"/{dev,proc,sys,tmp,etc}
    cp "$(find_busybox)" "$stage/bin/busybox"
    ln -sf busybox "$stage/bin/sh"
    ln -sf busybox "$stage/bin/sleep"
    : >"$build/not-built"
    while read -r file rest; do
        case $file in '' | '#'*) continue ;; esac
        out=$stage/tests/$(basename "$file" .c)
        words=()
        for word in $rest; do
            case $word in *.c) words+=("$source/$word") ;; *) words+=("$word") ;; esac
        done
        if ! cc -static -O1 -w -D_GNU_SOURCE -I"$source" -I"$source/futex/include" -I"$(dirname "$source/$file")" \
            -I"$build/popt/usr/include" -L"$build/popt/usr/lib/$(cc -print-multiarch)" \
            -o "$out" "$source/$file" "${words[@]}" 2>"$build/errors"; then
            echo "$file: $(grep -m1 error "$build/errors" || tail -1 "$build/errors")" >>"$build/not-built"
        fi
    done <"$here/tests.list"
    # One line a test, whatever it prints: its name and its exit status (4 says that it does not apply).
    cat >"$stage/tests.sh" <<SCRIPT
cd /tmp 2>/dev/null || exit 1
for test in "\$1"/*; do
    name=\${test##*/}
    $(printf '%s' "\${2:-}") timeout $patience "\$test" >"log.\$name" 2>&1 </dev/null
    status=\$?
    echo "selftest \$name \$status \$(tail -n 1 "log.\$name" | cut -c1-100)"
done
echo "selftest: end"
SCRIPT
    echo "built $(find "$stage/tests" -type f | wc -l), not built:"
    cat "$build/not-built"
}

case ${1:-} in
build)
    fetch
    fetch_popt
    compile
    ;;
host) sh "$stage/tests.sh" "$stage/tests" ;;
shimos)
    image=$("$root/shimos" image import "$stage" | tail -1 | awk '{print $1}')
    exec "$root/shimos" start --image "$image" selftests -- /bin/busybox sh /tests.sh /tests "busybox"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
