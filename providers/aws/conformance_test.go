package aws

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/conformance"
	"github.com/musterdr/muster/providers/conformance/conformancetest"
	"github.com/musterdr/muster/providers/rpc/rpctest"
	"github.com/musterdr/muster/testenv/moto"
)

// suiteConfig is the suite's for AWS.
func suiteConfig(front *moto.Front, fresh func() (providers.Provider, error)) conformance.Config {
	open := func(region string) func(context.Context) (providers.Provider, error) {
		return func(ctx context.Context) (providers.Provider, error) {
			p, err := fresh()
			if err != nil {
				return nil, err
			}
			return p, p.Configure(ctx, settingsFor(front, map[string]any{"region": region}))
		}
	}
	volumes := &attached{front: front}
	return conformance.Config{
		Open: open(home), Unconfigured: fresh, Contents: []providers.Content{providers.ContentBlocks}, Size: gib, Zone: zone,
		CopyTarget: map[string]string{"region": away}, OpenCopies: open(away),
		Machine: &providers.MachineRequest{Name: "node-1", Parameters: map[string]string{"image": "ami-12345678", "type": "m5.large"}},
		PV:      pvOf, Volumes: volumes.make, Fill: volumes.fill,
		Patience: time.Minute, Soon: 5 * time.Second,
	}
}

// pvOf is a PersistentVolume as Kubernetes has it.
func pvOf(driver string, v providers.Volume) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{}
	pv.Name = "pvc-1"
	if driver == inTree {
		pv.Spec.AWSElasticBlockStore = &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "aws://" + v.Zone + "/" + v.ID, FSType: "xfs"}
		return pv
	}
	pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: v.ID, FSType: "ext4"}
	return pv
}

// attached makes volumes of one instance, past the provider: only such are taken at one instant.
type attached struct{ front *moto.Front }

func (a *attached) make(ctx context.Context, _ providers.Content, n int) ([]providers.Volume, error) {
	client := a.front.EC2(home)
	out, err := client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-12345678"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), Placement: &types.Placement{AvailabilityZone: aws.String(zone)},
	})
	if err != nil {
		return nil, err
	}
	p := New(suiteSettings())
	if err := p.Configure(ctx, settingsFor(a.front, nil)); err != nil {
		return nil, err
	}
	var made []providers.Volume
	for i := range n {
		v, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(zone), Size: aws.Int32(1), VolumeType: types.VolumeTypeGp3})
		if err != nil {
			return nil, err
		}
		device := aws.String("/dev/sd" + string(rune('f'+i)))
		if _, err := client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: out.Instances[0].InstanceId, Device: device}); err != nil {
			return nil, err
		}
		described, err := p.Volume(ctx, p.(*provider).home.handle(aws.ToString(v.VolumeId)))
		if err != nil {
			return nil, err
		}
		made = append(made, described)
	}
	return made, nil
}

func (a *attached) fill(_ context.Context, v providers.Volume, offset int64, data []byte) error {
	a.front.Content.WriteVolume(v.ID, offset, data)
	return nil
}

func TestConformance(t *testing.T) {
	front := needAWS(t)
	conformancetest.Run(t, suiteConfig(front, func() (providers.Provider, error) { return New(suiteSettings()), nil }))
}

// TestConformanceOverGRPC runs over real gRPC in this process.
func TestConformanceOverGRPC(t *testing.T) {
	front := needAWS(t)
	config := suiteConfig(front, func() (providers.Provider, error) { return remote(t), nil })
	config.Only = []string{"info", "configure", "handles", "snapshot-group", "read", "write", "copy-snapshot", "machine-from-root", "cancelled-snapshot", "cancelled-create-machine"}
	conformancetest.Run(t, config)
}

// TestConformanceKilled kills the provider's process in the middle of its calls.
func TestConformanceKilled(t *testing.T) {
	front := needAWS(t)
	processes := &rpctest.Processes{Name: name}
	config := suiteConfig(front, processes.Start)
	config.Kill = processes.Kill
	config.KillAfter = []time.Duration{5 * time.Millisecond, 30 * time.Millisecond}
	config.Only = []string{"killed-"}
	conformancetest.Run(t, config)
}

// suiteSettings are those of tests whose volumes have the size of AWS's smallest.
func suiteSettings() Config {
	config := testConfig()
	config.unit = gib
	return config
}
