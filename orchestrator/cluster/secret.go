package cluster

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// SecretValue reads one value of a Secret. Errors: NotFound when the Secret or the key is not there.
func (c *Client) SecretValue(ctx context.Context, namespace, name, key string) (string, error) {
	found, err := c.typed.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", classify("read secret", namespace+"/"+name, err)
	}
	value, there := found.Data[key]
	if !there || len(value) == 0 {
		return "", fault.Newf("read secret", fault.NotFound, namespace+"/"+name, "it holds no %q", key)
	}
	return string(value), nil
}
