package repository

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"go.yaml.in/yaml/v3"

	"github.com/musterdr/muster/providers/fault"
)

const keyVersion = 1

// Key opens a repository and signs its recovery points. Whoever loses it loses the repository.
type Key struct {
	password string
	signer   ed25519.PrivateKey
	public   ed25519.PublicKey // what manifests must be signed with: the signer's, or a pinned one
}

// keyFile is the key file's form: YAML with one field a line, so that a person without Muster can
// read the password for the stock kopia command.
type keyFile struct {
	Version     int    `yaml:"version"`
	Password    string `yaml:"password"`
	SigningSeed string `yaml:"signingSeed"` // base64
	PublicKey   string `yaml:"publicKey"`
}

const publicPrefix = "ed25519:"

// NewKey makes a key from the system's randomness.
func NewKey() (*Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fault.New("make key", fault.Internal, "", err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fault.New("make key", fault.Internal, "", err)
	}
	return &Key{password: base64.RawURLEncoding.EncodeToString(secret), signer: private, public: public}, nil
}

// PublicKey is the key that manifests must be signed with: "ed25519:<base64>".
func (k *Key) PublicKey() string { return publicPrefix + base64.StdEncoding.EncodeToString(k.public) }

// Pin makes a public key from elsewhere the one that manifests must be signed with.
func (k *Key) Pin(public string) error {
	encoded, ok := strings.CutPrefix(public, publicPrefix)
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) != ed25519.PublicKeySize {
		return fault.Newf("pin public key", fault.Invalid, public, "want ed25519:<base64 of 32 bytes>")
	}
	k.public = raw
	return nil
}

// WriteFile writes the key file, readable by its owner alone, and refuses to overwrite. With age
// recipients ("age1…" or an ssh public key) the file is wrapped for them.
func (k *Key) WriteFile(path string, recipients []string) error {
	content, err := yaml.Marshal(keyFile{
		Version: keyVersion, Password: k.password, PublicKey: k.PublicKey(),
		SigningSeed: base64.StdEncoding.EncodeToString(k.signer.Seed()),
	})
	if err != nil {
		return fault.New("write key file", fault.Internal, path, err)
	}
	if len(recipients) > 0 {
		if content, err = wrap(content, recipients); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fault.Newf("write key file", fault.Exists, path, "it would be overwritten, and with it the only way into a repository")
	}
	if err != nil {
		return fault.New("write key file", fault.Denied, path, err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fault.New("write key file", fault.NoSpace, path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

func wrap(content []byte, recipients []string) ([]byte, error) {
	var parsed []age.Recipient
	for _, text := range recipients {
		var recipient age.Recipient
		var err error
		if strings.HasPrefix(text, "ssh-") {
			recipient, err = agessh.ParseRecipient(text)
		} else {
			recipient, err = age.ParseX25519Recipient(text)
		}
		if err != nil {
			return nil, fault.New("wrap key file", fault.Invalid, text, err)
		}
		parsed = append(parsed, recipient)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, parsed...)
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fault.New("wrap key file", fault.Internal, "", err)
	}
	return out.Bytes(), nil
}

const ageHeader = "age-encryption.org/"

// ReadKey reads a key file; one that is wrapped with age is opened with the given identity files.
// No error holds any of its content.
func ReadKey(path string, identityFiles []string) (*Key, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf("read key file", fault.NotFound, path, "there is no such file; without the key file there is no recovery")
	}
	if err != nil {
		return nil, fault.New("read key file", fault.Denied, path, err)
	}
	if bytes.HasPrefix(content, []byte(ageHeader)) {
		if content, err = unwrap(path, content, identityFiles); err != nil {
			return nil, err
		}
	} else if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		return nil, fault.Newf("read key file", fault.Denied, path, "everybody on this machine can read it: chmod 600 it, or wrap it for an age recipient")
	}
	var file keyFile
	if err := yaml.Unmarshal(content, &file); err != nil {
		return nil, fault.Newf("read key file", fault.Corrupt, path, "it is not a key file that muster init wrote")
	}
	if file.Version > keyVersion {
		return nil, fault.Newf("read key file", fault.Unsupported, path, "it is of version %d and this muster reads up to %d", file.Version, keyVersion)
	}
	seed, err := base64.StdEncoding.DecodeString(file.SigningSeed)
	if err != nil || len(seed) != ed25519.SeedSize || file.Password == "" {
		return nil, fault.Newf("read key file", fault.Corrupt, path, "its password or signingSeed is missing or damaged")
	}
	signer := ed25519.NewKeyFromSeed(seed)
	return &Key{password: file.Password, signer: signer, public: signer.Public().(ed25519.PublicKey)}, nil
}

// Wrapped reports a key file that is wrapped with age.
func Wrapped(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, len(ageHeader))
	_, err = io.ReadFull(f, start)
	return err == nil && string(start) == ageHeader
}

func unwrap(path string, content []byte, identityFiles []string) ([]byte, error) {
	var identities []age.Identity
	for _, name := range identityFiles {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fault.New("read age identity", fault.NotFound, name, err)
		}
		found, err := parseIdentities(raw)
		if err != nil {
			return nil, fault.Newf("read age identity", fault.Invalid, name, "it is neither an age identity nor an ssh private key without a passphrase")
		}
		identities = append(identities, found...)
	}
	if len(identities) == 0 {
		return nil, fault.Newf("open key file", fault.Denied, path, "it is wrapped with age: name the identity file in MUSTER_AGE_IDENTITY")
	}
	plain, err := age.Decrypt(bytes.NewReader(content), identities...)
	if err != nil {
		return nil, fault.New("open key file", fault.Denied, path, fmt.Errorf("no identity in MUSTER_AGE_IDENTITY opens it: %w", err))
	}
	return io.ReadAll(plain)
}

func parseIdentities(raw []byte) ([]age.Identity, error) {
	if bytes.Contains(raw, []byte("PRIVATE KEY-----")) {
		identity, err := agessh.ParseIdentity(raw)
		return []age.Identity{identity}, err
	}
	return age.ParseIdentities(bytes.NewReader(raw))
}

func (k *Key) sign(content []byte) []byte { return ed25519.Sign(k.signer, content) }

func (k *Key) verify(content, signature []byte) bool {
	return ed25519.Verify(k.public, content, signature)
}
