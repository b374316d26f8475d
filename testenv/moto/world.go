package moto

import (
	"context"
	"net/http"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/musterdr/muster/testenv/ebsdirect"
)

// world is what AWS knows and moto does not.
type world struct {
	owners map[string]string          // snapshot → account
	shared map[string]map[string]bool // snapshot → accounts
	copies map[string]bool            // snapshots whose volume is nobody's
	// accounts are those of access keys.
	accounts map[string]string
	keys     map[string]string            // snapshot → the key it is encrypted with
	images   map[string]string            // image → snapshot of its root
	names    map[string]string            // region/name → image
	tokens   map[string]remembered        // client token → answer
	fast     map[string]map[string]string // snapshot → zone → state
}

// remembered is the answer to a request with a client token.
type remembered struct{ form, answer string }

func newWorld() world {
	return world{
		owners: map[string]string{}, shared: map[string]map[string]bool{}, copies: map[string]bool{}, keys: map[string]string{}, accounts: map[string]string{}, images: map[string]string{},
		names: map[string]string{}, tokens: map[string]remembered{}, fast: map[string]map[string]string{},
	}
}

// awsConfig reaches moto itself, past the Front.
func (f *Front) awsConfig(region, access string) aws.Config {
	return aws.Config{
		Region: region, BaseEndpoint: aws.String(f.moto.url), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(access, "planted-secret-moto", ""),
	}
}

// EC2 is a client past the Front, for what a test prepares: its calls are in no log.
func (f *Front) EC2(region string) *ec2.Client { return f.client(region, "lab-access") }

func (f *Front) client(region, access string) *ec2.Client {
	return ec2.NewFromConfig(f.awsConfig(region, access))
}

// account is whose access key it is. It needs f.work.
func (f *Front) account(ctx context.Context, access string) (string, error) {
	if known := f.world.accounts[access]; known != "" {
		return known, nil
	}
	out, err := sts.NewFromConfig(f.awsConfig("us-east-1", access)).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	f.world.accounts[access] = aws.ToString(out.Account)
	return aws.ToString(out.Account), nil
}

// register makes a snapshot of a given size in moto, by way of a volume that is deleted again.
func (f *Front) register(r *http.Request, start ebsdirect.Start) (id, owner string, err error) {
	f.work.Lock()
	defer f.work.Unlock()
	m := scope.FindStringSubmatch(r.Header.Get("Authorization"))
	return f.makeSnapshot(r.Context(), m[2], m[1], start)
}

// makeSnapshot needs f.work.
func (f *Front) makeSnapshot(ctx context.Context, region, access string, start ebsdirect.Start) (id, owner string, err error) {
	owner, err = f.account(ctx, access)
	if err != nil {
		return "", "", err
	}
	client := f.client(region, access)
	input := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(region + "a"), Size: aws.Int32(int32(start.GiB))}
	if start.Encrypted {
		input.Encrypted = aws.Bool(true)
	}
	if start.KMSKey != "" {
		input.KmsKeyId = aws.String(start.KMSKey)
	}
	volume, err := client.CreateVolume(ctx, input)
	if err != nil {
		return "", "", err
	}
	made, err := client.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{
		VolumeId: volume.VolumeId, Description: aws.String(start.Description), TagSpecifications: specification(start.Tags),
	})
	if err != nil {
		return "", "", err
	}
	id = aws.ToString(made.SnapshotId)
	f.world.owners[id], f.world.copies[id], f.world.keys[id] = owner, true, start.KMSKey
	_, err = client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: volume.VolumeId})
	return id, owner, err
}

func specification(tags []ebsdirect.Tag) []types.TagSpecification {
	if len(tags) == 0 {
		return nil
	}
	all := types.TagSpecification{ResourceType: types.ResourceTypeSnapshot}
	for _, tag := range tags {
		all.Tags = append(all.Tags, types.Tag{Key: aws.String(tag.Key), Value: aws.String(tag.Value)})
	}
	return []types.TagSpecification{all}
}

func indexed(name string, i int) string { return name + "." + strconv.Itoa(i) }

// Fast are the zones in which fast snapshot restore is on for a snapshot.
func (f *Front) Fast(snapshot string) []string {
	f.work.Lock()
	defer f.work.Unlock()
	var zones []string
	for zone := range f.world.fast[snapshot] {
		zones = append(zones, zone)
	}
	return zones
}

// Shared are the accounts with which a snapshot is shared.
func (f *Front) Shared(snapshot string) []string {
	f.work.Lock()
	defer f.work.Unlock()
	var accounts []string
	for account := range f.world.shared[snapshot] {
		accounts = append(accounts, account)
	}
	return accounts
}
