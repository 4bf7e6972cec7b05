//! Programs of Debian that compute: they stand in for the parts of SPEC CPU2000.

/// The image with them.
pub const IMAGE: &str = "influence";
/// Its packages.
pub const PACKAGES: [&str; 15] = [
    "busybox-static",
    "bzip2",
    "coreutils",
    "cpp-12",
    "dash",
    "gap-core",
    "glpk-utils",
    "gnuchess",
    "gzip",
    "link-grammar",
    "link-grammar-dictionaries-en",
    "perl-base",
    "sed",
    "sqlite3",
    "tachyon",
];

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What it is called.
    pub name: &'static str,
    /// What it stands in for.
    pub part: &'static str,
    /// A line of shell that makes what it works on.
    pub before: &'static str,
    /// A line of shell that is measured.
    pub line: &'static str,
}

const fn load(name: &'static str, part: &'static str, before: &'static str, line: &'static str) -> Load {
    Load { name, part, before, line }
}

/// All of them.
pub const LOADS: [Load; 11] = [
    load("gzip", "164.gzip", "true", "gzip -c /usr/bin/perl"),
    load("bzip2", "256.bzip2", "true", "head -c 1500000 /usr/bin/perl | bzip2 -c"),
    load(
        "cc1",
        "176.gcc",
        "perl -e 'for (1 .. 120) { print \"int f$_(int a, int b) { int s = 0; for (int i = 0; i < a; i++) { \
         s += i * b ^ (s >> 3); if (s & $_) s -= b; } return s; }\\n\" }' >/tmp/in.c",
        "$(ls /usr/lib/gcc/*/12/cc1) -quiet -O2 /tmp/in.c -o /dev/null",
    ),
    load(
        "perl",
        "253.perlbmk",
        "true",
        "perl -e 'my %h; for my $i (1 .. 150000) { $h{$i % 5000} .= chr(65 + $i % 26) } my $s = 0; \
         $s += length $h{$_} for sort keys %h; print $s'",
    ),
    load(
        "link-grammar",
        "197.parser",
        "printf '%s\\n' 'The quick brown fox jumps over the lazy dog near the old mill.' \
         'A kernel that dies must not take the programs above it along.' >/tmp/in",
        "link-parser en </tmp/in",
    ),
    load(
        "gap",
        "254.gap",
        "printf '%s\\n' 'g := SymmetricGroup(9);; Size(g); Length(ConjugacyClasses(g)); quit;' >/tmp/in",
        "gap -q </tmp/in",
    ),
    load(
        "glpsol",
        "181.mcf",
        "perl -e 'my $n = 26; print \"Minimize\\n c: \", join(\" + \", map { my $i = $_; map { (($i * 37 + $_ * 91) % 53 + 1) . \
         \" x${i}_$_\" } 1 .. $n } 1 .. $n), \"\\nSubject To\\n\"; for my $i (1 .. $n) { \
         print \" r$i: \", join(\" + \", map { \"x${i}_$_\" } 1 .. $n), \" = 1\\n s$i: \", \
         join(\" + \", map { \"x${_}_$i\" } 1 .. $n), \" = 1\\n\" } print \"End\\n\"' | sed 's/\\(.\\{120\\}[^+]*\\)+/\\1\\n +/g' >/tmp/in.lp",
        "glpsol --lp /tmp/in.lp",
    ),
    load("gnuchess", "186.crafty", "printf '%s\\n' 'book off' 'depth 6' go quit >/tmp/in", "gnuchess -x </tmp/in"),
    load(
        "tachyon",
        "252.eon",
        "printf '%s\\n' BEGIN_SCENE 'RESOLUTION 128 128' CAMERA 'ZOOM 1' 'ASPECTRATIO 1' 'ANTIALIASING 1' 'RAYDEPTH 4' \
         'CENTER 0 0 -6' 'VIEWDIR 0 0 1' 'UPDIR 0 1 0' END_CAMERA 'LIGHT CENTER 4 4 -6 RAD 0.2 COLOR 1 1 1' \
         'SPHERE CENTER 0 0 0 RAD 1.5' 'TEXTURE AMBIENT 0.1 DIFFUSE 0.6 SPECULAR 0.3 OPACITY 1' 'COLOR 1 0.5 0.2 TEXFUNC 0' \
         'SPHERE CENTER 1.5 1 1 RAD 1' 'TEXTURE AMBIENT 0.1 DIFFUSE 0.4 SPECULAR 0.5 OPACITY 1' 'COLOR 0.2 0.5 1 TEXFUNC 0' \
         END_SCENE >/tmp/in.dat",
        "tachyon +V -numthreads 1 -o /tmp/out.tga /tmp/in.dat",
    ),
    load(
        "sqlite",
        "255.vortex",
        "true",
        "sqlite3 :memory: 'create table t (a integer primary key, b text, c integer); create index i on t (c); \
         insert into t with recursive n (x) as (select 1 union all select x + 1 from n where x < 12000) \
         select x, hex(x * 7919), x * 31 % 1009 from n; \
         select count(*), sum(a.c) from t a join t b on a.c = b.c where b.a < 800;'",
    ),
    load("matrix", "171.swim and others of CFP2000", "true", "/usr/lib/shimos/matrix 160"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_program() {
        for (index, load) in LOADS.iter().enumerate() {
            assert!(LOADS.iter().skip(index + 1).all(|other| other.name != load.name), "{}", load.name);
            assert!(load.before.len() + load.line.len() < 1400 && !load.line.contains('\n'), "{}", load.name);
        }
    }
}
