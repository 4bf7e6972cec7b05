openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 10 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
python3 - <<'P'
import socket, ssl, threading
s = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); s.load_cert_chain('cert.pem', 'key.pem')
listener = socket.create_server(('127.0.0.1', 0))
def serve():
    c, _ = listener.accept()
    with s.wrap_socket(c, server_side=True) as t:
        while data := t.recv(65536): t.sendall(data)
threading.Thread(target=serve, daemon=True).start()
c = ssl.create_default_context(cafile='cert.pem')
with socket.create_connection(listener.getsockname()) as raw, c.wrap_socket(raw, server_hostname='localhost') as t:
    for _ in range(20):
        t.sendall(b'z' * 10000); got = b''
        while len(got) < 10000: got += t.recv(65536)
    print(t.version(), t.cipher()[0])
P
