#!/usr/bin/env python3
"""Makes values that KMS providers would have written, whole and broken, and asks upstream's own code what it makes of them.

usage: kms.py [--seed N] [--count N] > kms.jsonl

Each line is a value of KMS v1 or v2 (a few are something else) with a list of providers that nearly fits it, and what
kube-apiserver's chain of transformers says with the stand-in plugins behind real sockets: readable, stale, error, the digest
of what it opened. `harm` tells what was done to the value. Environment: ORACLE, the program that main.go builds.
"""
import argparse, base64, hashlib, json, os, random, subprocess, sys, tempfile, time

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

ORACLE = os.environ.get("ORACLE", "oracle")
# The stand-in plugin for v2 wants this annotation.
ANNOTATION = b"version.oracle.example"
SOCKETS = "/run/kmsplugin/"


def b64(data):
    return base64.b64encode(data).decode()


class Maker:
    def __init__(self, rng):
        self.rng = rng

    def gcm(self, key, plain, aad):
        nonce = self.rng.randbytes(12)
        return nonce + AESGCM(key).encrypt(nonce, plain, aad)

    def cbc(self, key, plain):
        iv = self.rng.randbytes(16)
        pad = padding.PKCS7(128).padder()
        padded = pad.update(plain) + pad.finalize()
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        return iv + encryptor.update(padded) + encryptor.finalize()

    def wrap(self, key_id, dek):
        """What the stand-in plugin makes of a DEK."""
        return self.gcm(hashlib.sha256(b"oracle-kms-" + key_id.encode()).digest(), dek, None)

    def v1(self, key, plain):
        rng = self.rng
        dek = rng.randbytes(rng.choice([32, 32, 32, 32, 16, 24, 31, 0]))
        sealed_dek = self.wrap(rng.choice(["1"] * 9 + ["2"]), dek)
        usable = dek if len(dek) in (16, 24, 32) else bytes(32)
        # Releases before 1.25 wrote AES-CBC.
        body = rng.choice([self.gcm(usable, plain, key), self.cbc(usable, plain)])
        harm = rng.choice([""] * 5 + ["badgcm", "short", "iv", "len", "cut", "empty"])
        if harm == "badgcm":
            body = self.gcm(usable, plain, key + b"x")
        elif harm == "short":
            body = body[:rng.randrange(29)]
        elif harm == "iv":
            body = body[:16]
        elif harm == "cut":
            body = body[:-rng.choice([1, 16])]
        elif harm == "empty":
            sealed_dek = b""
        length = len(sealed_dek)
        if harm == "len":
            length = rng.choice([length + 5000, 65535, length - 1, length + 1])
        return rng.choice([b"a", b"a", b"a:b", b"a:b", b"c"]), length.to_bytes(2, "big") + sealed_dek + body, "v1 " + harm

    HARMS_V2 = ["dupid", "unknown", "group", "badgroup", "type", "bigtype", "wire", "noann", "badann", "twoann", "manyann", "noid",
                "longid", "maxid", "nodek", "longdek", "nodata", "utf8", "annutf8", "shortdata", "otheraad", "emptyentry", "emptybody",
                "seedlen", "reserved", "overflow", "wrongid", "trunc", "zerofield", "dupann"]
    BAD_ANNOTATIONS = [b"@", b"", b"x", b"A.b", b"a..b", b"a.b.", b"a.b..", b"a" * 64 + b".b", (b"a." * 127) + b"bb", b'q"uo\\te\n.x',
                       "é.example".encode(), b"-a.b"]

    def v2(self, key, plain):
        rng = self.rng
        harm = rng.choice([""] * 6 + self.HARMS_V2)
        seeded, key_id = rng.random() < .6, rng.choice("12")
        dek = rng.randbytes(rng.choice([0, 16, 24, 31, 33, 64, 100]) if harm == "seedlen" else 32)
        sealed_dek = self.wrap(key_id, dek)
        if seeded:
            info = rng.randbytes(32)
            data = info + self.gcm(HKDFExpand(SHA256(), 32, info).derive(dek) if dek else bytes(32), plain, key)
        else:
            data = self.gcm(dek if len(dek) in (16, 24, 32) else bytes(32), plain, key)
        if harm == "shortdata":
            data = data[:rng.choice([0, 1, 11, 12, 27, 31, 32, 43, 44, 59])] or b"x"
        elif harm == "otheraad":
            data = data[:-1] + bytes([data[-1] ^ 1])
        id_field = {"wrongid": b"3", "noid": b"", "longid": b"k" * 1025, "maxid": b"k" * 1024, "utf8": b"\xff"}.get(harm, key_id.encode())
        sealed_dek = {"nodek": b"", "longdek": rng.randbytes(1025)}.get(harm, sealed_dek)
        data = b"" if harm == "nodata" else data
        fields = [fb(1, data), fb(2, id_field), fb(3, sealed_dek)]
        fields += [fb(4, fb(1, name) + fb(2, content)) for name, content in self.annotations(harm)]
        fields = self.wire(fields, harm, seeded)
        body = b"".join(fields)
        if harm == "trunc":
            body = body[:rng.randrange(len(body))]
        elif harm == "emptybody":
            body = b""
        return rng.choice([b"cloud", b"cloud", b"cloud", b"b"]), body, "v2 " + harm

    def annotations(self, harm):
        rng = self.rng
        found = [] if harm == "noann" else [(ANNOTATION, b"1")]
        if harm == "badann":
            found.append((rng.choice(self.BAD_ANNOTATIONS), b"v"))
        elif harm == "twoann":
            found.append((b"z.example", b"v"))
        elif harm == "manyann":
            found += [(b"k%d.example" % n, b"v") for n in range(6)]
        elif harm == "dupann":
            found = [(ANNOTATION, rng.choice([b"0", b"1"])) for _ in range(2)]
        if harm in ("twoann", "manyann"):
            rng.shuffle(found)
        return found

    def wire(self, fields, harm, seeded):
        """Rare things of protobuf's wire format."""
        rng = self.rng
        fields = [*fields]
        if harm == "annutf8":
            fields.append(fb(4, fb(1, b"\xc3\x28") + fb(2, b"")))
        elif harm == "emptyentry":
            fields.append(fb(4, b""))
        if seeded:
            fields.append(fv(5, 1))
        if harm == "dupid":
            fields.insert(0, fb(2, b"9"))
        elif harm == "unknown":
            fields += [fb(9, b"x"), fv(1, 3), vi(6 << 3 | 5) + b"1234", vi(7 << 3 | 1) + b"12345678", fb(5, b"\x01")]
        elif harm == "group":
            fields.append(vi(6 << 3 | 3) + fv(1, 2) + vi(8 << 3 | 3) + vi(8 << 3 | 4) + vi(6 << 3 | 4))
        elif harm == "badgroup":
            fields.append(rng.choice([vi(6 << 3 | 3), vi(6 << 3 | 4), vi(6 << 3 | 3) + vi(7 << 3 | 4)]))
        elif harm == "type":
            fields.append(fv(5, rng.choice([2, 55, (1 << 64) - 1, 1 << 31])))
        elif harm == "bigtype":
            fields.append(fv(5, 1 << 32 | int(seeded)))
        elif harm == "reserved":
            fields.append(vi(6 << 3 | rng.choice([6, 7])))
        elif harm == "overflow":
            fields.append(vi(6 << 3) + b"\xff" * 9 + rng.choice([b"\x01", b"\x02", b"\xff\x01"]))
        elif harm == "zerofield":
            fields.append(rng.choice([b"\x00\x00", vi((1 << 29) << 3) + b"\0", vi(((1 << 29) - 1) << 3) + b"\0"]))
        return fields


def vi(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def fb(number, content):
    return vi(number << 3 | 2) + vi(len(content)) + content


def fv(number, content):
    return vi(number << 3) + vi(content)


def provider_lists(folder, old_key):
    def kms(version, name):
        return {"kms": {"apiVersion": version, "name": name, "endpoint": f"unix://{folder}{version}.sock"}}

    old = {"aescbc": {"keys": [{"name": "old", "secret": b64(old_key)}]}}
    plain = {"identity": {}}
    return [[kms("v2", "cloud")], [kms("v2", "cloud"), plain], [plain, kms("v2", "cloud"), kms("v1", "a")],
            [kms("v1", "a"), kms("v1", "a:b"), plain], [kms("v1", "a:b"), kms("v1", "a")],
            [old, kms("v1", "a:b"), kms("v2", "cloud"), plain], [kms("v1", "a")], [kms("v1", "a"), kms("v1", "a"), kms("v2", "b")],
            [kms("v2", "b"), kms("v2", "cloud"), old], [old, plain]]


def knows(providers, name, version):
    return any(p.get("kms", {}).get("name") == name and p["kms"]["apiVersion"] == version for p in providers)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--seed", type=int, default=7)
    args.add_argument("--count", type=int, default=500)
    args = args.parse_args()
    rng = random.Random(args.seed)
    maker, old_key = Maker(rng), hashlib.sha256(b"old").digest()
    with tempfile.TemporaryDirectory() as folder:
        folder += "/"
        servers = [subprocess.Popen([ORACLE, "kms", version, f"{folder}{version}.sock", key_id], stderr=subprocess.DEVNULL)
                   for version, key_id in (("v2", "2"), ("v1", "1"))]
        try:
            while not all(os.path.exists(f"{folder}{version}.sock") for version in ("v1", "v2")):
                time.sleep(0.05)
            run = subprocess.Popen([ORACLE, "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            servers.append(run)
            files = []
            for number, providers in enumerate(provider_lists(folder, old_key)):
                path = f"{folder}{number}.json"
                with open(path, "w") as file:
                    json.dump({"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
                               "resources": [{"resources": ["secrets"], "providers": providers}]}, file)
                files.append((path, providers))
            for number in range(args.count):
                json.dump(case(maker, run, files, number, old_key, folder), sys.stdout)
                print()
        finally:
            for server in servers:
                server.terminate()


def case(maker, run, files, number, old_key, folder):
    rng = maker.rng
    key, plain, kind = f"/registry/secrets/default/k-{number}", b"k8s\0" + rng.randbytes(rng.randrange(60)), rng.random()
    fitting = files
    if kind < .95:
        version = "v1" if kind < .4 else "v2"
        name, body, harm = (maker.v1 if version == "v1" else maker.v2)(key.encode(), plain)
        stored = f"k8s:enc:kms:{version}:".encode() + name + b":" + body
        fitting = [file for file in files if knows(file[1], name.decode(), version)] or files
    else:
        stored, harm = rng.choice([(plain, "plain"), (b"", "nothing"), (b"k8s:enc:kms:v3:a:x", "v3"),
                                   (b"k8s:enc:aescbc:v1:old:" + maker.cbc(old_key, plain), "old")])
    path, providers = rng.choice(fitting if rng.random() < .9 else files)
    run.stdin.write(json.dumps({"op": "decrypt", "key": key, "raw": b64(stored), "resource": "secrets", "config": path}) + "\n")
    run.stdin.flush()
    answer = json.loads(run.stdout.readline())
    error = answer.get("error")
    return {"providers": json.loads(json.dumps(providers).replace(folder, SOCKETS)), "key": key, "stored": b64(stored), "harm": harm,
            "readable": answer["ok"], "stale": answer.get("stale", False),
            # Go's protobuf library writes a no-break space in some builds, so that nobody relies on its words.
            "error": error and error.replace("\u00a0", " "),
            "opened_sha256": answer.get("sha256"), "written_sha256": hashlib.sha256(plain).hexdigest()}


if __name__ == "__main__":
    main()
