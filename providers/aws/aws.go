package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const name = "aws"

const opConfigure = "configure aws"

// Config is what the program gives the provider.
type Config struct {
	Now     func() time.Time
	Version string
	// Poll is how long a wait looks away before it looks again; 0: three seconds.
	Poll time.Duration
	// Backoff is the longest wait before a call is tried again; 0: twenty seconds.
	Backoff time.Duration
	// attempts is how often a call is made before its error counts; 0: eight.
	attempts int
	// unit is what AWS counts sizes in; tests make it smaller.
	unit int64
}

// provider implements providers.Provider.
type provider struct {
	providers.Unsupported
	config   Config
	settings settings
	home     *place // the settings' region, with the settings' credentials

	mu     sync.Mutex
	places map[string]*place
	busy   map[string]*sync.Mutex // by token
	known  *tokenCache
}

// New is a provider that waits for Configure.
func New(config Config) providers.Provider {
	if config.Poll == 0 {
		config.Poll = 3 * time.Second
	}
	if config.Backoff == 0 {
		config.Backoff = 20 * time.Second
	}
	if config.attempts == 0 {
		config.attempts = attempts
	}
	if config.unit == 0 {
		config.unit = gib
	}
	if config.Version == "" {
		config.Version = "dev"
	}
	return &provider{
		Unsupported: providers.Unsupported{Provider: name}, config: config, places: map[string]*place{}, busy: map[string]*sync.Mutex{}, known: newTokenCache(),
	}
}

// Info implements providers.Provider.
func (p *provider) Info(context.Context) (providers.Info, error) {
	drivers := []string{defaultDriver, inTree}
	for _, driver := range p.settings.CSIDrivers {
		if !slices.Contains(drivers, driver) {
			drivers = append(drivers, driver)
		}
	}
	return providers.Info{
		Name: name, Version: p.config.Version, Protocols: []int{providers.Protocol}, Schema: slices.Clone(schema), Drivers: drivers,
		Capabilities: []providers.Capability{
			providers.CapDiscover, providers.CapSnapshot, providers.CapGroup, providers.CapRead, providers.CapChanged, providers.CapWrite,
			providers.CapCreate, providers.CapClone, providers.CapCopy, providers.CapMachines,
		},
	}, nil
}

// Configure implements providers.Provider: it asks AWS who we are, and whether the region is one of the
// account's.
func (p *provider) Configure(ctx context.Context, raw json.RawMessage) error {
	s, err := parseSettings(raw)
	if err != nil {
		return err
	}
	p.settings = s
	home, err := p.place(ctx, s.Region, "")
	if err != nil {
		return err
	}
	zones, _, err := home.zones(ctx)
	if err != nil {
		return failed(opConfigure, s.Region, err, p.config.Now)
	}
	for original, zone := range s.ZoneMap {
		if !slices.Contains(zones, zone) {
			return fault.Newf(opConfigure, fault.Invalid, zone, "zoneMap sends %s to a zone that %s does not have; it has %s", original, s.Region, strings.Join(zones, ", "))
		}
	}
	p.home = home
	return nil
}

// zones are the names of the region's zones; skew is how far AWS's clock is ahead of ours.
func (l *place) zones(ctx context.Context) ([]string, time.Time, error) {
	out, err := l.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{})
	if err != nil {
		return nil, time.Time{}, err
	}
	var zones []string
	for _, zone := range out.AvailabilityZones {
		if zone.State == types.AvailabilityZoneStateAvailable {
			zones = append(zones, aws.ToString(zone.ZoneName))
		}
	}
	now, _ := middleware.GetServerTime(out.ResultMetadata)
	return zones, now, nil
}

// Health implements providers.Provider.
func (p *provider) Health(ctx context.Context) (providers.Health, error) {
	const op = "look at aws"
	if err := p.ready(op); err != nil {
		return providers.Health{}, err
	}
	zones, now, err := p.home.zones(ctx)
	if err != nil {
		return providers.Health{}, p.fail(op, p.home.region, err)
	}
	health := providers.Health{Usable: len(zones) > 0, Fingerprint: p.home.account + "/" + p.home.region, Now: now, Free: -1, Total: -1}
	if now.IsZero() {
		health.Now = p.config.Now()
	}
	if len(zones) == 0 {
		health.Problems = append(health.Problems, "no zone of "+p.home.region+" is available")
	}
	if skew := health.Now.Sub(p.config.Now()); skew.Abs() > time.Minute {
		health.Problems = append(health.Problems, fmt.Sprintf("this host's clock is %s AWS's: set it (chrony, timesyncd); calls that are signed minutes off are refused", aheadOrBehind(-skew)))
	}
	return health, nil
}

func aheadOrBehind(skew time.Duration) string {
	if skew < 0 {
		return (-skew).Round(10*time.Second).String() + " behind"
	}
	return skew.Round(10*time.Second).String() + " ahead of"
}

// Close implements providers.Provider.
func (p *provider) Close() error { return nil }

func (p *provider) ready(op string) error {
	if p.home == nil {
		return fault.Newf(op, fault.Invalid, name, "the provider is not configured")
	}
	return nil
}

// lock lets one call of a token at a time through in this process.
func (p *provider) lock(token string) func() {
	p.mu.Lock()
	m, ok := p.busy[token]
	if !ok {
		m = &sync.Mutex{}
		p.busy[token] = m
	}
	p.mu.Unlock()
	m.Lock()
	return m.Unlock
}

func (p *provider) fail(op, subject string, err error) error {
	return failed(op, subject, err, p.config.Now)
}

// identify asks AWS whose credentials these are.
func (l *place) identify(ctx context.Context) error {
	out, err := l.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return err
	}
	l.account = aws.ToString(out.Account)
	return nil
}
