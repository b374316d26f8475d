package aws

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/rpc"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	"github.com/musterdr/muster/testenv/moto"
)

const (
	home = "eu-west-1"
	away = "eu-central-1"
	zone = "eu-west-1b"
	// testUnit stands for a GiB in tests that fill volumes: what AWS calls n GiB has n times as much here.
	testUnit = 8 << 20
)

// cloud is AWS for all tests of the package: moto and what stands in for AWS where moto differs from its
// reference. See package moto.
var cloud struct {
	once  sync.Once
	front *moto.Front
	err   error
}

func TestMain(m *testing.M) {
	if rpctest.IsProvider() {
		os.Exit(rpc.Serve(New(suiteSettings())))
	}
	code := m.Run()
	if cloud.front != nil {
		for _, name := range cloud.front.Seen() {
			if !slices.ContainsFunc(operations(), func(o operation) bool { return o.name == name }) {
				fmt.Fprintf(os.Stderr, "AWS saw a call of %s, which is not in the policy's table\n", name)
				code = 1
			}
		}
		if err := cloud.front.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// needAWS starts AWS when this is the first test that needs it, and empties it.
func needAWS(t *testing.T) *moto.Front {
	t.Helper()
	if os.Getenv("MUSTER_LAB") == "off" && os.Getenv("CI") != "true" {
		t.Skip("left out: MUSTER_LAB is off")
	}
	cloud.once.Do(func() { cloud.front, cloud.err = moto.Start(context.Background()) })
	if cloud.err != nil {
		t.Fatalf("start moto: %v", cloud.err)
	}
	if err := cloud.front.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentialsFile(t, "lab-access"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return cloud.front
}

func credentialsFile(t *testing.T, access string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	writeCredentials(t, path, access)
	return path
}

func writeCredentials(t *testing.T, path, access string) {
	t.Helper()
	text := "[default]\naws_access_key_id = " + access + "\naws_secret_access_key = planted-secret-aws-7d20\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// settingsFor reach the front; more overrides them.
func settingsFor(front *moto.Front, more map[string]any) json.RawMessage {
	all := map[string]any{"region": home, "endpoints": map[string]string{"ec2": front.URL, "ebs": front.URL, "sts": front.URL}}
	for key, value := range more {
		all[key] = value
	}
	raw, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return raw
}

func testConfig() Config {
	return Config{Now: time.Now, Poll: 2 * time.Millisecond, Backoff: 20 * time.Millisecond, attempts: 6, unit: testUnit}
}

// open gives a configured provider.
func openProvider(t *testing.T, front *moto.Front, more map[string]any) providers.Provider {
	t.Helper()
	p := New(testConfig())
	if err := p.Configure(t.Context(), settingsFor(front, more)); err != nil {
		t.Fatal(err)
	}
	return p
}

// must returns what a call of a test's preparation made.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func wantKind(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Fatalf("%v error: %v; expected %v", fault.KindOf(err), err, kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not speak of %q: %v", word, err)
		}
	}
}

// instance is a machine that a test makes past the provider, with n data volumes beside its root, all with
// a tag.
func instance(t *testing.T, front *moto.Front, n int) (id string, volumes []string) {
	t.Helper()
	ctx, client := t.Context(), front.EC2(home)
	mappings := []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1), DeleteOnTermination: aws.Bool(true)}}}
	out := must(client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-12345678"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: "m5.large", KeyName: aws.String("ops"), UserData: aws.String("I2Nsb3VkLWNvbmZpZwo="),
		BlockDeviceMappings: mappings, Placement: &types.Placement{AvailabilityZone: aws.String(zone)},
		MetadataOptions:   &types.InstanceMetadataOptionsRequest{HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(2)},
		TagSpecifications: []types.TagSpecification{specify(types.ResourceTypeInstance, map[string]string{"Name": "worker-1", "app": "shop"})},
	}))
	id = aws.ToString(out.Instances[0].InstanceId)
	for i := range n {
		v := must(client.CreateVolume(ctx, &ec2.CreateVolumeInput{
			AvailabilityZone: aws.String(zone), Size: aws.Int32(1), VolumeType: types.VolumeTypeGp3, Iops: aws.Int32(4000), Throughput: aws.Int32(200),
			TagSpecifications: []types.TagSpecification{specify(types.ResourceTypeVolume, map[string]string{"app": "shop", "n": fmt.Sprint(i)})},
		}))
		volumes = append(volumes, aws.ToString(v.VolumeId))
		must(client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: aws.String(id), Device: aws.String(fmt.Sprintf("/dev/sd%c", 'f'+i))}))
	}
	return id, volumes
}

// discover lists volumes by their IDs.
func discover(t *testing.T, p providers.Provider, query providers.Query) map[string]providers.Volume {
	t.Helper()
	found := map[string]providers.Volume{}
	err := p.Discover(t.Context(), query, func(v providers.Volume) error {
		found[v.ID] = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func handlesOf(all map[string]providers.Volume, ids []string) []providers.Handle {
	var handles []providers.Handle
	for _, id := range ids {
		handles = append(handles, all[id].Handle)
	}
	return handles
}

// noise is data without zeros.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data) // it never fails
	for i := range data {
		data[i] |= 1
	}
	return data
}
