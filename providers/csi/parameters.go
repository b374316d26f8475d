package csi

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

func quantity(bytes int64) resource.Quantity { return *resource.NewQuantity(bytes, resource.BinarySI) }

// plan is a new volume as it will be asked for.
type plan struct {
	token   string
	request string // digest of all that decides what the volume is
	class   *storagev1.StorageClass
	mode    corev1.PersistentVolumeMode
	access  []corev1.PersistentVolumeAccessMode
	size    int64
	zone    string
	tags    map[string]string
	source  *corev1.TypedLocalObjectReference
}

func (p *Provider) planVolume(ctx context.Context, op string, request providers.CreateRequest) (plan, error) {
	if request.Token == "" {
		return plan{}, fault.Newf(op, fault.Invalid, request.Name, "the request has no token")
	}
	out := plan{token: request.Token, size: request.Size, zone: request.Zone, tags: tagsOf(request.Tags, request.Token),
		mode: corev1.PersistentVolumeBlock, access: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}
	if request.Content == providers.ContentFiles {
		out.mode = corev1.PersistentVolumeFilesystem
	}
	wanted, err := out.read(op, request)
	if err != nil {
		return plan{}, err
	}
	if request.Size < 0 || request.Size == 0 && request.Snapshot.IsZero() {
		return plan{}, fault.Newf(op, fault.Invalid, request.Name, "a size of %d bytes is no size", request.Size)
	}
	if out.class, err = p.storageClass(ctx, op, wanted); err != nil {
		return plan{}, err
	}
	out.request = digestOf(request)
	return out, nil
}

// read takes the parameters; it returns the class that they name.
func (v *plan) read(op string, request providers.CreateRequest) (class string, err error) {
	for name, value := range request.Parameters {
		switch name {
		case parameterClass:
			class = value
		case parameterFS: // the storage class decides
		case parameterAccess:
			v.access = nil
			for mode := range strings.SplitSeq(value, ",") {
				v.access = append(v.access, corev1.PersistentVolumeAccessMode(mode))
			}
		case parameterMode:
			if value != string(corev1.PersistentVolumeBlock) && value != string(corev1.PersistentVolumeFilesystem) {
				return "", fault.Newf(op, fault.Invalid, name, "%q is neither Block nor Filesystem", value)
			}
			v.mode = corev1.PersistentVolumeMode(value)
		default:
			return "", fault.Newf(op, fault.Invalid, name, "no such parameter: there are %s, %s, %s and %s", parameterClass, parameterMode, parameterAccess, parameterFS)
		}
	}
	if request.Content != providers.ContentBlocks && request.Content != providers.ContentFiles {
		return "", fault.Newf(op, fault.Invalid, string(request.Content), "the content is neither blocks nor files")
	}
	return class, nil
}

// digestOf tells one request from another.
func digestOf(request providers.CreateRequest) string {
	parts := []string{string(request.Content), quantityText(request.Size), string(request.Snapshot.State), request.Zone}
	for _, key := range sortedKeys(request.Parameters) {
		parts = append(parts, key, request.Parameters[key])
	}
	return digest(parts...)
}
