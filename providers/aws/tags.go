package aws

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Tags of our own, beside those of package providers.
const (
	tagRequest = "muster.dev/request" // digest of the request that made it: a token is good for one request
	tagAttempt = "muster.dev/attempt" // snapshots of one instant have the same
	tagVolume  = "muster.dev/volume"  // of a snapshot: what the volume was like
	tagPart    = "muster.dev/part"    // of what is made on the way to something else
	tagImage   = "muster.dev/image"   // of a machine: the image that was registered for it alone
	tagName    = "Name"
)

// digest names a request; requests that differ have different ones.
func digest(parts ...any) string {
	h := sha256.New()
	encoder := json.NewEncoder(h)
	for _, part := range parts {
		_ = encoder.Encode(part) // maps and strings, into a hash
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// clientToken is the token as AWS takes it: at most 64 characters of ASCII.
func clientToken(token string, parts ...string) string {
	sum := sha256.Sum256([]byte(token + "\x00" + strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])[:60]
}

// made are the tags of something new.
func (p *provider) made(asked map[string]string, token, request string, more map[string]string) map[string]string {
	all := maps.Clone(p.settings.Tags)
	if all == nil {
		all = map[string]string{}
	}
	for key, value := range asked {
		if !strings.HasPrefix(key, "aws:") { // AWS's own, of the original
			all[key] = value
		}
	}
	if all[providers.TagRun] == "" {
		all[providers.TagRun] = "none" // the mark of what is Muster's
	}
	maps.Copy(all, more)
	all[providers.TagToken], all[tagRequest] = token, request
	return all
}

func toEC2(tags map[string]string) []types.Tag {
	var all []types.Tag
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, types.Tag{Key: aws.String(key), Value: aws.String(tags[key])})
	}
	return all
}

func toEBS(tags map[string]string) []ebstypes.Tag {
	var all []ebstypes.Tag
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, ebstypes.Tag{Key: aws.String(key), Value: aws.String(tags[key])})
	}
	return all
}

func specify(kind types.ResourceType, tags map[string]string) types.TagSpecification {
	return types.TagSpecification{ResourceType: kind, Tags: toEC2(tags)}
}

func fromEC2(tags []types.Tag) map[string]string {
	all := map[string]string{}
	for _, tag := range tags {
		all[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	return all
}

// matches reports whether tags are as a query wants them; AWS's filters were asked already.
func matches(tags, wanted map[string]string) bool {
	for key, value := range wanted {
		have, ok := tags[key]
		if !ok || value != "*" && have != value {
			return false
		}
	}
	return true
}

// filter is one of AWS's filters.
func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// tagFilters ask for tags. A value that is empty or has a wildcard in it is asked for by its name alone,
// and compared by matches.
func tagFilters(tags map[string]string) []types.Filter {
	var all []types.Filter
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if value := tags[key]; !strings.ContainsAny(value, `*?\`) && value != "" {
			all = append(all, filter("tag:"+key, value))
		} else {
			all = append(all, filter("tag-key", key))
		}
	}
	return all
}

// literal is for values in which AWS's filters see wildcards.
var literal = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

func byToken(token string) types.Filter {
	return filter("tag:"+providers.TagToken, literal.Replace(token))
}

// maxToken is what a tag's value holds.
const maxToken = 256

func checkToken(op, token string) error {
	if token == "" {
		return fault.Newf(op, fault.Invalid, name, "the token is missing")
	}
	if len(token) > maxToken {
		return fault.Newf(op, fault.Invalid, name, "the token has %d characters, and AWS's tags hold %d", len(token), maxToken)
	}
	return nil
}

// maxValues is how many values one filter takes.
const maxValues = 200

// portions cuts IDs into what one filter takes; none gives one empty portion.
func portions(ids []string) [][]string {
	if len(ids) == 0 {
		return [][]string{nil}
	}
	return slices.Collect(slices.Chunk(ids, maxValues))
}

// parameters as one tag's value: "iops=3000 type=gp3". A tag holds 256 characters, which these never
// reach.
func packParameters(volume string, parameters map[string]string) string {
	parts := []string{"id=" + volume}
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		parts = append(parts, key+"="+parameters[key])
	}
	return strings.Join(parts, " ")
}

func unpackParameters(text string) (volume string, parameters map[string]string) {
	parameters = map[string]string{}
	for part := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(part, "=")
		parameters[key] = value
	}
	volume = parameters["id"]
	delete(parameters, "id")
	return volume, parameters
}
