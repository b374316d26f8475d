//go:build cgo && ceph

package ceph

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers/fault"
)

// layout is what Create and Write's parameters say.
type layout struct {
	place
	dataPool   string
	features   uint64
	objectSize uint64
	stripeUnit uint64
	stripes    uint64
	flatten    bool
	metadata   map[string]string
}

// layoutOf reads parameters; what they leave out comes from where.
func layoutOf(op string, parameters map[string]string, where place) (layout, error) {
	l := layout{place: where, metadata: map[string]string{}}
	features := usualFeatures
	var err error
	for key, value := range parameters {
		meta, isMeta := strings.CutPrefix(key, metaParameter)
		switch {
		case isMeta && !strings.HasPrefix(meta, markPrefix) && meta != "":
			l.metadata[meta] = value
		case key == poolParameter:
			l.Pool = value
		case key == namespaceParameter:
			l.Namespace = value
		case key == dataPoolParameter:
			l.dataPool = value
		case key == featuresParameter:
			features = value
		case key == objectSizeParameter:
			l.objectSize, err = power(value)
		case key == stripeUnitParameter:
			l.stripeUnit, err = power(value)
		case key == stripeCountParameter:
			l.stripes, err = strconv.ParseUint(value, 10, 32)
		case key == flattenParameter:
			l.flatten, err = strconv.ParseBool(value)
		default:
			err = errors.New("no such parameter")
		}
		if err != nil {
			return l, fault.Newf(op, fault.Invalid, key+"="+value, "%w; parameters are pool, namespace, dataPool, features, objectSize, stripeUnit, stripeCount, flatten and meta.KEY", err)
		}
	}
	if _, named := parameters[poolParameter]; named && parameters[namespaceParameter] == "" {
		l.Namespace = ""
	}
	l.features, err = featureBits(features)
	return l, wrap(op, features, err)
}

func power(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err == nil && (n == 0 || n&(n-1) != 0) {
		err = errors.New("it is no power of two")
	}
	return n, err
}

func featureBits(names string) (uint64, error) {
	if names == "" {
		return 0, nil
	}
	list := strings.Split(names, ",")
	for _, name := range list {
		if !slices.Contains(chosen, name) {
			return 0, fault.Newf("read parameters", fault.Invalid, "features", "%q is none of %s", name, strings.Join(chosen, ", "))
		}
	}
	return uint64(rbd.FeatureSetFromNames(list)), nil
}

type number struct {
	option rbd.ImageOption
	value  uint64
}

// options are those of librbd; the caller destroys them.
func (l layout) options(clone bool) (*rbd.ImageOptions, error) {
	o := rbd.NewRbdImageOptions()
	numbers := []number{{rbd.ImageOptionStripeUnit, l.stripeUnit}, {rbd.ImageOptionStripeCount, l.stripes}}
	if l.objectSize > 0 {
		numbers = append(numbers, number{rbd.ImageOptionOrder, uint64(bits.TrailingZeros64(l.objectSize))})
	}
	features := l.features
	if clone {
		features |= rbd.FeatureLayering
		numbers = append(numbers, number{rbd.ImageOptionCloneFormat, 2})
	}
	numbers = slices.DeleteFunc(numbers, func(n number) bool { return n.value == 0 })
	numbers = append(numbers, number{rbd.ImageOptionFeatures, features})
	for _, n := range numbers {
		if err := o.SetUint64(n.option, n.value); err != nil {
			o.Destroy()
			return nil, fmt.Errorf("image option %d: %w", n.option, err)
		}
	}
	if l.dataPool != "" {
		if err := o.SetString(rbd.ImageOptionDataPool, l.dataPool); err != nil {
			o.Destroy()
			return nil, err
		}
	}
	return o, nil
}
