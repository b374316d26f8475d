package registry

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	apiserver "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/storage/value"
	aestransformer "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	"k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"
	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/providers/fault"
)

// encrypted is what every value begins with that is encrypted at rest: k8s:enc:<provider>:v1:<key>:.
const encrypted = "k8s:enc:"

// Keys open what is encrypted at rest. The zero value opens nothing.
type Keys struct {
	transformers map[string][]value.Read // by the mark of their values, which ends with the key's name
}

// ReadKeys reads an EncryptionConfiguration (apiserver.config.k8s.io/v1), as kube-apiserver's
// --encryption-provider-config has it. Plugins of KMS v2 are asked when the first of their values is opened, until
// ctx ends; KMS v1, which Kubernetes has given up, is passed over. Errors are Invalid and hold no key.
func ReadKeys(ctx context.Context, raw []byte) (*Keys, error) {
	var config apiserver.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(raw, &config); err != nil || config.Kind != "EncryptionConfiguration" {
		// The library's error may quote a line, and with it a key.
		return nil, invalidKeys("it is no EncryptionConfiguration of apiserver.config.k8s.io/v1")
	}
	k := &Keys{transformers: map[string][]value.Read{}}
	for _, resource := range config.Resources {
		for _, provider := range resource.Providers {
			if err := k.add(ctx, provider); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

func invalidKeys(format string, args ...any) error {
	return fault.Newf("read encryption configuration", fault.Invalid, "", format, args...)
}

func (k *Keys) add(ctx context.Context, p apiserver.ProviderConfiguration) error {
	switch {
	case p.AESCBC != nil:
		return k.each("aescbc", p.AESCBC.Keys, func(secret []byte) (value.Read, error) {
			block, err := aes.NewCipher(secret)
			if err != nil {
				return nil, err
			}
			return cbc{aestransformer.NewCBCTransformer(block)}, nil
		})
	case p.AESGCM != nil:
		return k.each("aesgcm", p.AESGCM.Keys, func(secret []byte) (value.Read, error) {
			block, err := aes.NewCipher(secret)
			if err != nil {
				return nil, err
			}
			return aestransformer.NewGCMTransformer(block)
		})
	case p.Secretbox != nil:
		return k.each("secretbox", p.Secretbox.Keys, func(secret []byte) (value.Read, error) {
			if len(secret) != 32 {
				return nil, fmt.Errorf("it has %d bytes, not 32", len(secret))
			}
			return secretbox.NewSecretboxTransformer([32]byte(secret)), nil
		})
	case p.KMS != nil && p.KMS.APIVersion == "v2":
		opener, err := newPlugin(ctx, p.KMS)
		if err != nil {
			return err
		}
		mark := encrypted + "kms:v2:" + p.KMS.Name + ":"
		k.transformers[mark] = append(k.transformers[mark], opener)
	}
	return nil
}

// cbc refuses what was cut down to its first block, on which the library panics.
type cbc struct{ value.Transformer }

// TransformFromStorage implements value.Transformer.
func (c cbc) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	if len(data) <= aes.BlockSize {
		return nil, false, fmt.Errorf("it has %d bytes, and no more than its first block", len(data))
	}
	return c.Transformer.TransformFromStorage(ctx, data, at)
}

func (k *Keys) each(provider string, keys []apiserver.Key, make func(secret []byte) (value.Read, error)) error {
	for _, key := range keys {
		secret, err := base64.StdEncoding.DecodeString(key.Secret)
		if err != nil {
			return invalidKeys("the secret of key %q of %s is no base64", key.Name, provider)
		}
		transformer, err := make(secret)
		if err != nil {
			return invalidKeys("the secret of key %q of %s: %w", key.Name, provider, err)
		}
		mark := encrypted + provider + ":v1:" + key.Name + ":"
		k.transformers[mark] = append(k.transformers[mark], transformer)
	}
	return nil
}

// open returns a stored value in the clear. Several keys can have one name, in different parts of a
// configuration: the one that gives an object is right.
func (k *Keys) open(ctx context.Context, e Entry) ([]byte, error) {
	if !bytes.HasPrefix(e.Value, []byte(encrypted)) {
		return e.Value, nil
	}
	var refused error
	for mark, transformers := range k.all() {
		if !bytes.HasPrefix(e.Value, []byte(mark)) {
			continue
		}
		for _, t := range transformers {
			clear, _, err := t.TransformFromStorage(ctx, e.Value[len(mark):], value.DefaultContext(e.Key))
			if err == nil && isObject(clear) {
				return clear, nil
			}
			if refused = err; err == nil {
				refused = errors.New("what it gives is no object")
			}
		}
	}
	if refused == nil {
		return nil, fault.Newf("decrypt object", fault.Denied, e.Key, "it is encrypted with %s, whose key is not in the encryption configuration", markOf(e.Value))
	}
	return nil, fault.Newf("decrypt object", fault.Denied, e.Key, "the key %s does not open it: %w: it is another key of that name, or the value is damaged", markOf(e.Value), refused)
}

func (k *Keys) all() map[string][]value.Read {
	if k == nil {
		return nil
	}
	return k.transformers
}

// markOf is the beginning of an encrypted value, for people: what stands before its fifth colon.
func markOf(stored []byte) string {
	parts := strings.SplitN(strings.ToValidUTF8(string(stored[:min(len(stored), 256)]), "?"), ":", 6)
	return strings.Join(parts[:min(len(parts), 5)], ":")
}
