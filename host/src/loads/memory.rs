//! Whole address spaces: programs are stopped in the middle of their work, and every readable byte of all their mappings
//! is summed up, again and again, while kernels die. Nothing in them may change.
//!
//! What it covers: text, data, heap, stacks, anonymous and file mappings and the vDSO of a redis with data and of a perl that
//! computes with 20,000 random numbers; each mapping with its place and rights. The kernel's own page of variables is left
//! out. A third process changes 4 MiB by a rule all the time and checks them by the same rule.
use super::{Client, Connection, Dial, Load, Shared, lines::put, shell};
use anyhow::{Context, Result, bail};
use std::{sync::Arc, time::Duration};

/// The programs and who sums them up.
pub struct Memory;

/// Short, as an order to start a program fits into one packet.
const SUMMER: &str = "import hashlib,os,random,socket,subprocess as S,threading,time
P,Q=S.PIPE,'/tmp/s'
r=S.Popen(['redis-server','--port','0','--unixsocket',Q,'--save','','--enable-debug-command','yes'],stdout=P)
while S.run(['redis-cli','-s',Q,'debug','populate','5000'],stdout=P,stderr=P).stdout!=b'OK\\n':time.sleep(.2)
p=S.Popen(['perl','-e','$h{$_}=rand for 1..20000;$|=1;print 1;$n++ while 1'],stdout=P)
p.stdout.read(1)
for x in r,p:
    os.kill(x.pid,19)
    while open(f'/proc/{x.pid}/stat').read().split()[2]!='T':time.sleep(.1)
def total(x):
    h,n=hashlib.md5(),0
    with open(f'/proc/{x}/mem','rb',0) as m:
        for l in open(f'/proc/{x}/maps'):
            w=l.split()
            h.update(' '.join(w[:4]).encode())
            if 'r' not in w[1] or w[-1][:3]=='[vv':continue
            a,e=(int(k,16) for k in w[0].split('-'))
            m.seek(a)
            while a<e:b=m.read(min(e-a,1<<20));h.update(b);a+=len(b);n+=len(b)
    return f'{n} {h.hexdigest()}'
bad=0
def churn():
    global bad
    m,v,u=bytearray(4<<20),[0]*1024,random.Random(7)
    while 1:
        i=u.randrange(1024);j=i<<12
        bad+=int.from_bytes(m[j:j+8],'big')!=v[i]
        v[i]=u.getrandbits(60)
        m[j:j+8]=v[i].to_bytes(8,'big')
        time.sleep(.0005)
threading.Thread(target=churn).start()
s=socket.create_server(('',7000))
while 1:
    c=s.accept()[0]
    while c.recv(9):c.send(f'{total(r.pid)} {total(p.pid)} {bad}\\n'.encode())
";

impl Load for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn command(&self) -> Vec<String> {
        shell(&format!("{}exec python3 /tmp/summer.py", put("summer.py", SUMMER)))
    }
    fn port(&self) -> u16 {
        7000
    }
    fn clients(&self) -> usize {
        1
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        // One after another is served: the connection must end before a client's begins.
        let mut connection = dial.connect()?;
        let sums = ask(&mut connection)?;
        if !sums.ends_with(" 0") || sums.split(' ').count() != 5 {
            bail!("the sums are '{sums}'");
        }
        Ok(Arc::new(Spaces { dial, sums }))
    }
}

fn ask(connection: &mut Connection) -> Result<String> {
    connection.send(b"sum\n")?;
    connection.line()
}

struct Spaces {
    dial: Dial,
    sums: String,
}

impl Shared for Spaces {
    fn client(&self, _: usize, _: u64) -> Result<Box<dyn Client>> {
        let connection = self.dial.connect().context("cannot be asked")?;
        Ok(Box::new(Summer { connection, sums: self.sums.clone() }))
    }
}

struct Summer {
    connection: Connection,
    sums: String,
}

impl Client for Summer {
    fn step(&mut self) -> Result<()> {
        let sums = ask(&mut self.connection)?;
        if sums != self.sums {
            bail!("the memory of stopped programs has changed: '{}' is now '{sums}'", self.sums);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.step()
    }
}
