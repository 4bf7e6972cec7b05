[ "$(perl -e 'my %h; $h{$_ % 7}++ for 1..1000; print join ",", map {$h{$_}} sort keys %h')" = 142,143,143,143,143,143,143 ]
perl -MIO::Socket::INET -e 'my $l = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1") or die; my $p = fork; if (!$p) { my $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $l->sockport) or die; print $c "ping\n"; exit 0 } my $c = $l->accept; die unless <$c> eq "ping\n"; waitpid $p, 0; die if $?'
perl -MPOSIX -MTime::HiRes=usleep -e '$SIG{ALRM} = sub { $n = 1 }; alarm 1; pause; die unless $n; usleep 1000; die unless (uname)[0] eq "Linux"'
perl -MDigest::SHA=sha1_hex -MFile::Temp -MEncode -e 'die unless sha1_hex("a") eq "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"'
perl -e 'printf "perl %vd\n", $^V'
