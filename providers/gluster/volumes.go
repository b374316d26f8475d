package gluster

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// info describes one volume by its name.
func (p *pool) info(ctx context.Context, op, name string) (volumeInfo, error) {
	r, err := p.gluster(ctx, op, name, "volume", "info", name)
	if err != nil {
		return volumeInfo{}, err
	}
	for _, v := range r.Volumes {
		if v.Name == name {
			return v, nil
		}
	}
	return volumeInfo{}, fault.Newf(op, fault.NotFound, name, "gluster volume info does not know it")
}

// same is info for a volume that is known by its UUID, too.
func (p *pool) same(ctx context.Context, op string, s state) (volumeInfo, error) {
	v, err := p.info(ctx, op, s.Volume)
	if err == nil && v.ID != s.ID {
		return v, fault.Newf(op, fault.NotFound, s.Volume, "it is gone; another volume has its name")
	}
	return v, err
}

// Discover implements providers.Volumes.
func (p *provider) Discover(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	const op = "discover volumes"
	pool, err := p.ready(op)
	if err != nil {
		return err
	}
	if query.Machine != "" {
		return nil // a file volume is attached to no machine
	}
	r, err := pool.gluster(ctx, op, Name, "volume", "info", "all")
	if err != nil {
		return err
	}
	geo := pool.geo(ctx)
	for _, v := range r.Volumes {
		if len(query.IDs) > 0 && !slices.Contains(query.IDs, v.Name) || !matches(v.tags(), query.Tags) {
			continue
		}
		described, err := pool.describe(ctx, op, v, geo)
		if fault.Is(err, fault.NotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := each(described); err != nil {
			return err
		}
	}
	return nil
}

// Volume implements providers.Volumes.
func (p *provider) Volume(ctx context.Context, h providers.Handle) (providers.Volume, error) {
	const op = "describe volume"
	pool, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	s, err := openVolume(op, h)
	if err != nil {
		return providers.Volume{}, err
	}
	v, err := pool.same(ctx, op, s)
	if err != nil {
		return providers.Volume{}, err
	}
	return pool.describe(ctx, op, v, nil)
}

func (v volumeInfo) meta() *meta { return decodeMeta(v.option(metaOption)) }

func (v volumeInfo) tags() map[string]string { return v.meta().tags() }

// describe adds the quota to what glusterd knows of a volume.
func (p *pool) describe(ctx context.Context, op string, v volumeInfo, geo map[string]string) (providers.Volume, error) {
	size, used, err := p.quota(ctx, op, v)
	if err != nil {
		return providers.Volume{}, err
	}
	described := v.describe(size, used)
	if state := geo[v.Name]; state != "" {
		described.Parameters[infoPrefix+"geo-replication"] = state
	}
	return described, nil
}

func (v volumeInfo) describe(size, used int64) providers.Volume {
	return providers.Volume{
		Handle: state{Volume: v.Name, ID: v.ID}.handle(), ID: v.Name, Content: providers.ContentFiles,
		Size: size, Used: used, Tags: v.tags(), Parameters: v.parameters(),
	}
}

func (v volumeInfo) parameters() map[string]string {
	parameters := map[string]string{paramTransport: "tcp", infoPrefix + "status": v.Status, infoPrefix + "type": v.Type}
	v.layout().parameters(parameters)
	var bricks []string
	for _, b := range v.Bricks {
		bricks = append(bricks, b.Name)
	}
	parameters[infoPrefix+"bricks"] = strings.Join(bricks, " ")
	for _, o := range v.Options {
		if keepOption(o.Name) {
			parameters[optionPrefix+o.Name] = o.Value
		}
	}
	return parameters
}

// quota is the limit on the whole volume and what is used of it: 0 and -1 where there is none. Limits on
// folders are not told.
func (p *pool) quota(ctx context.Context, op string, v volumeInfo) (size, used int64, err error) {
	if !v.on("features.quota") {
		return 0, -1, nil
	}
	r, err := p.gluster(ctx, op, v.Name, "volume", "quota", v.Name, "list", "/")
	if fault.Is(err, fault.NotFound) || !v.started() && err != nil {
		return 0, -1, nil
	}
	if err != nil {
		return 0, -1, err
	}
	for _, limit := range r.Limits {
		if limit.Path != "/" {
			continue
		}
		if size, err = strconv.ParseInt(limit.Hard, 10, 64); err != nil || size < 0 {
			return 0, -1, nil // "N/A": no limit
		}
		if used, err = strconv.ParseInt(limit.Used, 10, 64); err != nil || used < 0 {
			used = -1
		}
		return size, used, nil
	}
	return 0, -1, nil
}

// geo is the state of geo-replication by volume. Pools without any answer with an error; what cannot be told
// is left out.
func (p *pool) geo(ctx context.Context) map[string]string {
	r, err := p.once(ctx, "look at geo-replication", Name, "volume", "geo-replication", "status")
	if err != nil {
		return nil
	}
	states := map[string]string{}
	for _, v := range r.Geo {
		var all []string
		for _, session := range v.Sessions {
			for _, pair := range session.Pairs {
				if !slices.Contains(all, pair.Status) {
					all = append(all, pair.Status)
				}
			}
		}
		slices.Sort(all)
		states[v.Name] = strings.Join(all, ", ")
	}
	return states
}
