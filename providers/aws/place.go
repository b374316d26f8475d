package aws

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/musterdr/muster/providers/fault"
)

// place is one region of one account: the clients that reach it.
type place struct {
	region  string
	unit    int64  // of sizes
	role    string // assumed on top of the settings' credentials; "" for those alone
	account string
	ec2     *ec2.Client
	ebs     *ebs.Client
	sts     *sts.Client
	pace    *pace
}

// renewal fetches new credentials for all calls of a place that find theirs expired.
type renewal struct {
	cache *aws.CredentialsCache
	now   func() time.Time
	mu    sync.Mutex
	at    time.Time // when they last became others
}

// fresh is how long new credentials explain that older ones are refused: calls were on the way.
const fresh = time.Minute

// renewed asks the chain anew, and reports whether it gives others than before, or has just done so.
func (r *renewal) renewed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.at.IsZero() && r.now().Sub(r.at) < fresh {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	before, err := r.cache.Retrieve(ctx)
	if err != nil {
		return false
	}
	r.cache.Invalidate()
	after, err := r.cache.Retrieve(ctx)
	if err != nil || after.AccessKeyID == before.AccessKeyID && after.SessionToken == before.SessionToken {
		return false
	}
	r.at = r.now()
	return true
}

// place gives the clients of a region, with the rights of a role when one is named.
func (p *provider) place(ctx context.Context, region, roleARN string) (*place, error) {
	key := region + " " + roleARN
	p.mu.Lock()
	known, ok := p.places[key]
	p.mu.Unlock()
	if ok {
		return known, nil
	}
	made, err := p.newPlace(ctx, region, roleARN)
	if err != nil {
		return nil, failed(opConfigure, region, err, p.config.Now)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.places[key] = made
	return made, nil
}

func (p *provider) newPlace(ctx context.Context, region, roleARN string) (*place, error) {
	made := &place{region: region, unit: p.config.unit, role: roleARN, pace: newPace(p.settings.Parallel)}
	cache := aws.NewCredentialsCache(p.chain(region, roleARN))
	base := aws.Config{Region: region, Credentials: cache}
	renew := &renewal{cache: cache, now: p.config.Now}
	base.Retryer = func() aws.Retryer { return newRetryer(renew, made.pace, p.config) }
	at := p.settings.Endpoints
	if region != p.settings.Region && !loopback(at) {
		at = endpoints{} // an interface endpoint serves its own region
	}
	made.ec2 = ec2.NewFromConfig(base, func(o *ec2.Options) { o.BaseEndpoint = endpoint(at.EC2) })
	made.ebs = ebs.NewFromConfig(base, func(o *ebs.Options) { o.BaseEndpoint = endpoint(at.EBS) })
	made.sts = sts.NewFromConfig(base, func(o *sts.Options) { o.BaseEndpoint = endpoint(at.STS) })
	return made, made.identify(ctx)
}

func endpoint(address string) *string {
	if address == "" {
		return nil
	}
	return aws.String(address)
}

// loopback tells a stand-in of AWS, which serves all regions.
func loopback(at endpoints) bool {
	for _, address := range []string{at.EC2, at.EBS, at.STS} {
		if len(address) > 5 && address[:5] == "http:" {
			return true
		}
	}
	return false
}

// chain is where credentials come from: the SDK's own chain, which is gone through again each time, so
// that a file or a session that somebody has renewed counts; then the roles.
func (p *provider) chain(region, roleARN string) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		options := []func(*config.LoadOptions) error{config.WithRegion(region)}
		if p.settings.Profile != "" {
			options = append(options, config.WithSharedConfigProfile(p.settings.Profile))
		}
		loaded, err := config.LoadDefaultConfig(ctx, options...)
		if err != nil {
			return aws.Credentials{}, err
		}
		source := loaded.Credentials
		if r := p.settings.AssumeRole; r != nil {
			source = p.assume(loaded, source, *r)
		}
		if roleARN != "" {
			source = p.assume(loaded, source, role{ARN: roleARN, ExternalID: p.settings.ExternalIDs[roleARN]})
		}
		return source.Retrieve(ctx)
	})
}

func (p *provider) assume(loaded aws.Config, source aws.CredentialsProvider, r role) aws.CredentialsProvider {
	client := sts.NewFromConfig(loaded, func(o *sts.Options) {
		o.Credentials, o.BaseEndpoint = source, endpoint(p.settings.Endpoints.STS)
	})
	return aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(client, r.ARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = "muster"
		if r.SessionName != "" {
			o.RoleSessionName = r.SessionName
		}
		if r.ExternalID != "" {
			o.ExternalID = aws.String(r.ExternalID)
		}
	}))
}

// attempts is how often a call is made before its error counts.
const attempts = 8

// retryer is the SDK's adaptive one, which also tells the pace of throttling, and fetches new credentials
// when AWS says that these have expired.
type retryer struct {
	aws.RetryerV2
	renew *renewal
	pace  *pace
}

func newRetryer(renew *renewal, pace *pace, c Config) aws.Retryer {
	adaptive := retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
		o.StandardOptions = append(o.StandardOptions, func(s *retry.StandardOptions) {
			s.MaxAttempts, s.MaxBackoff = c.attempts, c.Backoff
		})
	})
	return &retryer{adaptive, renew, pace}
}

// IsErrorRetryable implements aws.Retryer.
func (r *retryer) IsErrorRetryable(err error) bool {
	var e smithy.APIError
	if !errors.As(err, &e) {
		return r.RetryerV2.IsErrorRetryable(err)
	}
	if slices.Contains(throttles, e.ErrorCode()) {
		r.pace.throttled()
		return true
	}
	if slices.Contains(expiries, e.ErrorCode()) {
		// The SDK signs the next attempt by AWS's clock, but does not count this code among those of a wrong one.
		if skew, ok := skewOf(err, r.renew.now); ok && skew.Abs() > maxSkew {
			return true
		}
		return r.renew.renewed()
	}
	return r.RetryerV2.IsErrorRetryable(err)
}

// placeOf gives the clients that reach what a handle names.
func (p *provider) placeOf(ctx context.Context, op string, id identity) (*place, error) {
	if err := p.ready(op); err != nil {
		return nil, err
	}
	found, err := p.place(ctx, id.Region, id.Role)
	if err != nil {
		return nil, err
	}
	if id.Account != "" && found.account != id.Account {
		return nil, fault.Newf(op, fault.Denied, id.ID, "it belongs to account %s, and these credentials to %s: use others, or assume a role of that account", id.Account, found.account)
	}
	return found, nil
}
