package scenario

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
	"github.com/musterdr/muster/testenv/moto"
)

// The regions that stand-ins are asked for.
const (
	home, homeZone = "eu-west-1", "eu-west-1b"
	away, awayZone = "eu-central-1", "eu-central-1a"
)

const gibi = 1 << 30

// storages is a scenario of backends alone: muster, a repository, and storages without a cluster.
func storages(t *testing.T, lines string, plugins string) *Scenario {
	t.Helper()
	muster, err := builtMuster()
	must(t, err)
	dir := t.TempDir()
	credentials := filepath.Join(dir, "credentials")
	must(t, os.WriteFile(credentials, []byte("[default]\naws_access_key_id = lab-access\naws_secret_access_key = planted-secret-aws\n"), 0o600))
	s := &Scenario{Storage: lines, config: Config{
		Dir: dir, Muster: muster, Plugins: plugins, Environment: []string{"AWS_SHARED_CREDENTIALS_FILE=" + credentials}, Out: &quiet{t},
	}}
	must(t, os.Mkdir(s.path("state"), 0o700))
	must(t, os.WriteFile(s.path("admin.conf"), nil, 0o600)) // no step of these plans asks a cluster
	documents := "apiVersion: muster.dev/v1alpha1\nkind: Cluster\nmetadata: {name: prod}\nspec:\n  kubeconfigFile: admin.conf\n" + s.storage() +
		fmt.Sprintf("---\napiVersion: muster.dev/v1alpha1\nkind: Repository\nmetadata: {name: vault}\nspec: {url: \"file://%s\", keyFile: muster.key}\n", s.path("repository"))
	must(t, os.WriteFile(s.path("muster.yaml"), []byte(documents), 0o600))
	must(t, s.Run(t.Context(), "init", nil, "init", "--repository", s.path("repository"), "--key-file", s.path("muster.key")))
	return s
}

// plan runs a plan of the given steps, which must find nothing amiss.
func (s *Scenario) plan(t *testing.T, name, purpose, steps string) {
	t.Helper()
	text := fmt.Sprintf("apiVersion: muster.dev/v1alpha1\nkind: Plan\nmetadata: {name: %s}\nspec:\n  purpose: %s\n  steps:\n%s", name, purpose, steps)
	must(t, os.WriteFile(s.path(name+".yaml"), []byte(text), 0o600))
	must(t, s.Run(t.Context(), name, nil, "run", name, "--file", s.path("muster.yaml"), "--file", s.path(name+".yaml"), "--report", s.path("report.json")))
	report, err := s.ReadReport()
	must(t, err)
	for _, f := range report.Findings {
		t.Errorf("%s: %s: %s", name, f.Subject, f.Text)
	}
}

// needAWS starts what stands in for AWS.
func needAWS(t *testing.T) *moto.Front {
	t.Helper()
	front, err := moto.Start(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, front.Stop()) })
	return front
}

// awsLine is a storage in a region, with more settings.
func awsLine(t *testing.T, front *moto.Front, name, region string, more map[string]any) string {
	t.Helper()
	all := map[string]any{"region": region, "endpoints": map[string]any{"ec2": front.URL, "ebs": front.URL, "sts": front.URL}}
	for key, value := range more {
		all[key] = value
	}
	return fmt.Sprintf("    - {name: %s, provider: aws, environment: [AWS_SHARED_CREDENTIALS_FILE], settings: %s}\n", name, settings(t, all))
}

// TestCephToAWSAndBack: an RBD image comes back as an EBS volume, and that one as an RBD image, byte for byte.
// EC2 is moto, and EBS direct a stand-in; Ceph is Ceph.
func TestCephToAWSAndBack(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	must(t, ceph.Install(t.Context()))
	here, front := ceph.Need(t, ceph.Config{}), needAWS(t)
	s := storages(t, storageLine("fast", "ceph", settings(t, map[string]any{"configFile": here.ConfigFile, "pools": []string{ceph.Pool}}))+
		awsLine(t, front, "ebs", home, map[string]any{"tags": map[string]any{"team": "books"}}), plugins(t, "ceph", "aws"))
	want := sparseFile(t, s.path("original"), gibi, 24)
	for _, line := range [][]string{{"import", s.path("original"), "rbd/ledger"}, {"image-meta", "set", "rbd/ledger", "team", "books"}} {
		_, err := here.RBD(t.Context(), line...)
		must(t, err)
	}
	for _, name := range []string{"ceph", "aws"} {
		must(t, s.Run(t.Context(), "pin", nil, "provider", "pin", name, "--yes"))
	}
	s.plan(t, "capture-ceph", "capture", capturedFrom("fast"))
	s.plan(t, "to-aws", "migrate", "    - {id: volumes, uses: restore-volumes, with: {storage: {fast: ebs}, zones: {\"\": "+homeZone+"}, verify: content}}\n")
	volumes, err := front.EC2(home).DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
	must(t, err)
	if len(volumes.Volumes) != 1 {
		t.Fatalf("there are %d volumes", len(volumes.Volumes))
	}
	id := aws.ToString(volumes.Volumes[0].VolumeId)
	if got := digestOf(bytes.NewReader(front.Content.ReadVolume(id, 0, gibi))); got != want {
		t.Errorf("the EBS volume's digest is %s, the image's was %s", got, want)
	}

	_, err = here.RBD(t.Context(), "rm", "rbd/ledger")
	if err != nil { // its snapshot is the base of the next capture
		_, err = here.Shell(t.Context(), "rbd snap purge rbd/ledger && rbd rm rbd/ledger")
	}
	must(t, err)
	s.plan(t, "capture-aws", "capture", capturedFrom("ebs"))
	s.plan(t, "to-ceph", "migrate", "    - {id: volumes, uses: restore-volumes, with: {storage: {ebs: fast}, verify: content}}\n")
	out, err := here.RBD(t.Context(), "ls", "rbd")
	must(t, err)
	images := strings.Fields(out)
	if len(images) != 1 {
		t.Fatalf("the images are %q", images)
	}
	if got := imageDigest(t, here, "rbd/"+images[0]); got != want {
		t.Errorf("the new image's digest is %s, the first one's was %s", got, want)
	}
}

func capturedFrom(storage string) string {
	return "    - {id: volumes, uses: capture-volumes, with: {storage: [" + storage + "], tags: {team: books}}}\n    - {id: seal, uses: seal-recovery-point, needs: [volumes]}\n"
}

// sparseFile writes pieces of noise of a MiB, anywhere in a file of holes, and returns its digest.
func sparseFile(t *testing.T, path string, size int64, pieces int) string {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	source := rand.NewChaCha8([32]byte{7})
	random := rand.New(source)
	piece := make([]byte, 1<<20)
	for range pieces {
		_, _ = source.Read(piece) // it never fails
		_, err := f.WriteAt(piece, random.Int64N(size-int64(len(piece)))&^511)
		must(t, err)
	}
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	return digestOf(f)
}

func digestOf(r io.Reader) string {
	sum := sha256.New()
	_, _ = io.Copy(sum, r) // a short read shows as another digest
	return hex.EncodeToString(sum.Sum(nil))
}

// TestInstanceInAnotherRegion: all volumes of one instance by tag at one instant, what has changed into the
// repository, copied to a second region, and the instance made again there from the recovery point. Every call
// that AWS saw is one that the policy in the documentation allows.
func TestInstanceInAnotherRegion(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	front := needAWS(t)
	s := storages(t, awsLine(t, front, "ebs", home, nil)+awsLine(t, front, "there", away, nil), plugins(t, "aws"))
	must(t, s.Run(t.Context(), "pin", nil, "provider", "pin", "aws", "--yes"))
	machine, volumes := instance(t, front, 3)
	for i, id := range volumes {
		front.Content.WriteVolume(id, 0, piece(byte(i), 3<<20))
	}
	steps := `    - {id: volumes, uses: capture-volumes, with: {storage: [ebs], tags: {app: shop}, groupBy: machine, atomic: true, mode: both}}
    - {id: copies, uses: copy-snapshots, needs: [volumes], with: {targets: {ebs: {region: ` + away + `}}}}
    - {id: seal, uses: seal-recovery-point, needs: [copies]}
`
	s.plan(t, "capture-shop", "capture", steps)
	truth := map[string]string{}
	for i, id := range volumes {
		front.Content.WriteVolume(id, 1<<20+4096, piece(byte(10+i), 4096))
		truth[deviceOf(t, front, home, machine, id)] = digestOf(bytes.NewReader(front.Content.ReadVolume(id, 0, gibi)))
	}
	s.plan(t, "capture-shop", "capture", steps)
	s.changedBlocks(t, machine, len(volumes))
	for i, id := range volumes {
		front.Content.WriteVolume(id, 0, piece(byte(20+i), 2<<20)) // after the instant
	}

	s.plan(t, "shop-elsewhere", "migrate", `    - {id: machines, uses: create-machines, with: {storage: {ebs: there}, zones: {`+homeZone+`: `+awayZone+`}, parameters: {subnet: "", privateIP: "", securityGroups: ""}}}
`)
	found, err := front.EC2(away).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	must(t, err)
	if len(found.Reservations) != 1 || len(found.Reservations[0].Instances) != 1 {
		t.Fatalf("in %s there are %+v", away, found.Reservations)
	}
	again := found.Reservations[0].Instances[0]
	if again.InstanceType != "m5.large" || aws.ToString(again.Placement.AvailabilityZone) != awayZone || again.MetadataOptions.HttpTokens != "required" {
		t.Errorf("the instance was made again as %s in %s", again.InstanceType, aws.ToString(again.Placement.AvailabilityZone))
	}
	got := map[string]string{}
	for _, disk := range again.BlockDeviceMappings {
		got[aws.ToString(disk.DeviceName)] = digestOf(bytes.NewReader(front.Content.ReadVolume(aws.ToString(disk.Ebs.VolumeId), 0, gibi)))
	}
	if len(got) != len(truth) {
		t.Errorf("the disks are %v, captured were %v", got, truth)
	}
	for device, want := range truth {
		if got[device] != want {
			t.Errorf("the digest of %s is %s, at the instant it was %s", device, got[device], want)
		}
	}
	allowed(t, front.Seen())
}

// changedBlocks looks at what the newest point says of the volumes.
func (s *Scenario) changedBlocks(t *testing.T, machine string, count int) {
	t.Helper()
	var manifest struct {
		Volumes []struct {
			ID        string `json:"id"`
			Group     string `json:"group"`
			Instant   string `json:"instant"`
			ReadBytes int64  `json:"readBytes"`
			Base      string `json:"base"`
		} `json:"volumes"`
		Machines []struct {
			ID string `json:"id"`
		} `json:"cloudMachines"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	if len(manifest.Volumes) != count || len(manifest.Machines) != 1 || manifest.Machines[0].ID != machine {
		t.Fatalf("the point holds %+v", manifest)
	}
	for _, v := range manifest.Volumes {
		if v.Group != "machine/"+machine || v.Instant != manifest.Volumes[0].Instant || v.Base == "" || v.ReadBytes != 512<<10 {
			t.Errorf("of %d bytes that were changed in one block of 512 KiB, it tells %+v", 4096, v)
		}
	}
}

// allowed fails for calls that the policy, which is generated from the provider's code, leaves out.
func allowed(t *testing.T, seen []string) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/providers-aws-policy.json")
	must(t, err)
	var policy struct {
		Statement []struct{ Action []string }
	}
	must(t, json.Unmarshal(raw, &policy))
	actions := map[string]bool{"sts:GetCallerIdentity": true} // which needs no right
	for _, statement := range policy.Statement {
		for _, action := range statement.Action {
			actions[action] = true
		}
	}
	for _, call := range seen {
		if !actions[call] {
			t.Errorf("AWS saw a call of %s, which the policy does not allow", call)
		}
	}
}

// instance is a machine in the home region whose root and n data volumes have a tag.
func instance(t *testing.T, front *moto.Front, n int) (id string, volumes []string) {
	t.Helper()
	ctx, client := t.Context(), front.EC2(home)
	shop := []types.Tag{{Key: aws.String("app"), Value: aws.String("shop")}}
	tags := func(kind types.ResourceType) []types.TagSpecification {
		return []types.TagSpecification{{ResourceType: kind, Tags: shop}}
	}
	out, err := client.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String("ami-12345678"), MinCount: aws.Int32(1), MaxCount: aws.Int32(1), InstanceType: "m5.large", KeyName: aws.String("ops"), UserData: aws.String("I2Nsb3VkLWNvbmZpZwo="),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1), DeleteOnTermination: aws.Bool(true)}}},
		Placement:           &types.Placement{AvailabilityZone: aws.String(homeZone)}, MetadataOptions: &types.InstanceMetadataOptionsRequest{HttpTokens: "required"},
		TagSpecifications: tags(types.ResourceTypeInstance),
	})
	must(t, err)
	made := out.Instances[0]
	id = aws.ToString(made.InstanceId)
	root := aws.ToString(made.BlockDeviceMappings[0].Ebs.VolumeId)
	_, err = client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{root}, Tags: shop})
	must(t, err)
	volumes = []string{root}
	for i := range n {
		v, err := client.CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(homeZone), Size: aws.Int32(1), VolumeType: types.VolumeTypeGp3, TagSpecifications: tags(types.ResourceTypeVolume)})
		must(t, err)
		_, err = client.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: v.VolumeId, InstanceId: aws.String(id), Device: aws.String(fmt.Sprintf("/dev/sd%c", 'f'+i))})
		must(t, err)
		volumes = append(volumes, aws.ToString(v.VolumeId))
	}
	return id, volumes
}

// deviceOf is where an instance has a volume.
func deviceOf(t *testing.T, front *moto.Front, region, machine, volume string) string {
	t.Helper()
	out, err := front.EC2(region).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{machine}})
	must(t, err)
	for _, disk := range out.Reservations[0].Instances[0].BlockDeviceMappings {
		if aws.ToString(disk.Ebs.VolumeId) == volume {
			return aws.ToString(disk.DeviceName)
		}
	}
	t.Fatalf("%s has no volume %s", machine, volume)
	return ""
}

func piece(seed byte, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // it never fails
	return data
}
