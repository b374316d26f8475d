package conformance

import (
	"bytes"
	"regexp"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

var providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func infoCases() []trial {
	return []trial{
		{name: "info", body: infoIsSane},
		{name: "configure", body: configureRefuses},
		{name: "health", body: healthIsSane},
		{name: "unclaimed", body: unclaimed},
	}
}

func infoIsSane(c *scope) {
	if !providerName.MatchString(c.info.Name) {
		c.Errorf("the name %q is not lower-case letters, digits and '-'", c.info.Name)
	}
	if c.info.Version == "" {
		c.Errorf("no version")
	}
	if !slices.Contains(c.info.Protocols, providers.Protocol) {
		c.Errorf("protocols %v lack %d, which this suite is about", c.info.Protocols, providers.Protocol)
	}
	if err := schema(c.info.Schema); err != nil {
		c.Errorf("the settings' schema is no JSON Schema: %v", err)
	}
	if slices.Contains(c.info.Drivers, "") {
		c.Errorf("drivers %q have an empty name", c.info.Drivers)
	}
	for i, capability := range c.info.Capabilities {
		if slices.Contains(c.info.Capabilities[:i], capability) {
			c.Errorf("capability %q stands there twice", capability)
		}
	}
	again, err := c.provider.Info(c.ctx)
	c.must("info", err)
	if again.Name != c.info.Name || again.Version != c.info.Version || !slices.Equal(again.Capabilities, c.info.Capabilities) {
		c.Errorf("a second look says something else: %+v and %+v", c.info, again)
	}
}

func schema(text []byte) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", document); err != nil {
		return err
	}
	_, err = compiler.Compile("schema.json")
	return err
}

func configureRefuses(c *scope) {
	if c.config.Unconfigured == nil {
		c.Skipf("no Unconfigured in the suite's configuration")
	}
	for _, settings := range []string{`{"no-such-setting":1}`, `[]`, `{`, `"x"`} {
		p, err := c.config.Unconfigured()
		c.must("open an unconfigured provider", err)
		err = p.Configure(c.ctx, []byte(settings))
		_ = p.Close()
		c.refused("configure with "+settings, err, fault.Invalid)
	}
}

func healthIsSane(c *scope) {
	health, err := c.provider.Health(c.ctx)
	c.must("health", err)
	if !health.Usable {
		c.Errorf("the backend is not usable: %q", health.Problems)
	}
	if health.Fingerprint == "" {
		c.Errorf("no fingerprint: nobody could tell one backend from another")
	}
	if health.Now.IsZero() {
		c.Errorf("no clock")
	}
	if health.Free < -1 || health.Total < -1 || health.Total >= 0 && health.Free > health.Total {
		c.Errorf("%d bytes free of %d", health.Free, health.Total)
	}
	again, err := c.open().Health(c.ctx)
	c.must("health from another client", err)
	if again.Fingerprint != health.Fingerprint {
		c.Errorf("two clients of one backend tell the fingerprints %q and %q", health.Fingerprint, again.Fingerprint)
	}
}
