package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterdr/muster/orchestrator/etcd"
	"github.com/musterdr/muster/orchestrator/etcd/registry"
)

func extractEtcd() benchmark {
	return benchmark{
		name: "extract-etcd", unit: "MB/s", against: "etcdutl snapshot status", runs: 5, warm: true,
		how: "A snapshot of 32,000 ConfigMaps of 4 KiB in 20 namespaces, a quarter of them changed twice. Ours is what muster extract does for one namespace: compare the hash at " +
			"the end, find the newest revision of each of its keys, decode its 1,600 objects, make YAML of them. The reference reads every record, and makes a CRC-32 of all: " +
			"it compares no hash, decodes and prints nothing.",
		prepare: prepareExtractEtcd,
	}
}

const (
	extractObjects    = 32_000
	extractNamespaces = 20
)

// extractBench is the snapshot of an etcd.
type extractBench struct {
	etcdutl string
	path    string
	size    int64
}

func prepareExtractEtcd(ctx context.Context, on *stage) (sides, error) {
	e, programs, err := startEtcd(ctx, on)
	if err != nil {
		return sides{}, err
	}
	client, err := e.client(ctx)
	if err != nil {
		return sides{}, err
	}
	defer client.Close()
	for round := range 3 {
		if err := putConfigMaps(ctx, client, round); err != nil {
			return sides{}, err
		}
	}
	b := &extractBench{etcdutl: filepath.Join(programs, "etcdutl"), path: on.fresh("snapshot") + ".db"}
	if err := run(command(ctx, e.etcdctl, "--endpoints", e.endpoint, "--cacert", e.cert, "snapshot", "save", b.path)); err != nil {
		return sides{}, err
	}
	info, err := os.Stat(b.path)
	if err != nil {
		return sides{}, err
	}
	b.size = info.Size()
	return sides{ours: b.ours, reference: b.reference, notes: b.notes}, nil
}

// putConfigMaps writes all, and from the second round on every fourth, as an API server stores them.
func putConfigMaps(ctx context.Context, client *clientv3.Client, round int) error {
	const batch = 100
	codec, from := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), newSource(uint64(round))
	var puts []clientv3.Op
	for i := range extractObjects {
		if round > 0 && i%4 != 0 {
			continue
		}
		namespace, name := fmt.Sprintf("ns-%02d", i%extractNamespaces), fmt.Sprintf("item-%06d", i)
		raw, err := runtime.Encode(codec, &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
			Data:       map[string]string{"text": from.text(4 << 10)},
		})
		if err != nil {
			return err
		}
		if puts = append(puts, clientv3.OpPut("/registry/configmaps/"+namespace+"/"+name, string(raw))); len(puts) < batch {
			continue
		}
		if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
		puts = nil
	}
	return nil
}

func (b *extractBench) ours(ctx context.Context) (rate float64, err error) {
	began := time.Now()
	file, err := os.Open(b.path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, _, err := etcd.Check(file); err != nil {
		return 0, err
	}
	found := 0
	wanted := func(key string) bool { return strings.Contains(key, "/ns-07/") }
	err = registry.Read(ctx, file, b.size, registry.Query{Wanted: wanted}, func(entry registry.Entry) error {
		object, err := registry.Object(ctx, entry, nil)
		if err != nil {
			return err
		}
		found++
		_, err = registry.YAML(object)
		return err
	})
	if err == nil && found != extractObjects/extractNamespaces {
		err = fmt.Errorf("%d objects were found", found)
	}
	return perSecond(b.size, time.Since(began)), err
}

func (b *extractBench) reference(ctx context.Context) (float64, error) {
	c := command(ctx, b.etcdutl, "snapshot", "status", b.path)
	began := time.Now()
	err := run(c)
	return perSecond(b.size, time.Since(began)), err
}

func (b *extractBench) notes() []string {
	return []string{fmt.Sprintf("The snapshot has %s MB.", figure(float64(b.size)/1e6))}
}
