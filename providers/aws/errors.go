package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/musterdr/muster/providers/fault"
)

// throttles are the codes of a service that is asked too often.
var throttles = []string{
	"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "RequestThrottledException", "EC2ThrottledException",
	"ConcurrentLimitExceededException", "SlowDown", "TooManyRequestsException",
}

// expiries are the codes of credentials whose time is over.
var expiries = []string{"ExpiredToken", "ExpiredTokenException", "RequestExpired"}

// rule says what an error code means, and what to do about it.
type rule struct {
	code   *regexp.Regexp
	kind   fault.Kind
	advice string
}

func when(code string, kind fault.Kind, advice string) rule {
	return rule{regexp.MustCompile("^(" + code + ")$"), kind, advice}
}

// rules are looked through from the top; the first that fits counts.
var rules = []rule{
	when(strings.Join(throttles, "|"), fault.Busy, "AWS throttles this account: lower maxParallel, or ask AWS for a higher rate"),
	when(strings.Join(expiries, "|"), fault.Denied, "the credentials have expired and their source gives no new ones: log in again (aws sso login), or use a role that the SDK can renew"),
	when("UnauthorizedOperation|AccessDenied.*|Client\\.UnauthorizedOperation", fault.Denied, "grant what docs/providers-aws-policy.json lists"),
	when("AuthFailure|InvalidClientTokenId|UnrecognizedClientException|SignatureDoesNotMatch|InvalidSignatureException|MissingAuthenticationToken|OptInRequired|Blocked|PendingVerification|InvalidAccessKeyId", fault.Denied,
		"these credentials are not accepted: check the profile, the role and the region"),
	when("InsufficientInstanceCapacity|InsufficientVolumeCapacity|InsufficientCapacity.*|Insufficient.*", fault.NoSpace, "AWS has no capacity for this now: use another zone or type"),
	when("ConcurrentSnapshotLimitExceeded|CopySnapshotsLimitExceeded|.*ConcurrentCopy.*|ConcurrentTagAccess|ResourceCountExceeded", fault.Busy, "too many of these are on the way: it works when some have ended"),
	when("PendingSnapshotLimitExceeded", fault.Busy, "too many snapshots are pending: it works when some have ended"),
	when("SnapshotCreationPerVolumeRateExceeded", fault.Busy, "a volume takes no two snapshots so soon after each other"),
	when("SnapshotLimitExceeded|VolumeLimitExceeded|MaxIOPSLimitExceeded|VolumeIOPSLimit|InstanceLimitExceeded|VcpuLimitExceeded|ServiceQuotaExceededException|TagLimitExceeded|.*QuotaExceeded.*", fault.NoSpace,
		"a quota of the account is full: delete what is not needed, or ask AWS for more (Service Quotas)"),
	when(".*LimitExceeded", fault.Busy, "a limit of AWS is reached: it works when others have ended"),
	when(".*\\.NotFound|ResourceNotFoundException|.*\\.Unknown", fault.NotFound, "somebody has deleted it, or it is in another region or account"),
	when("VolumeInUse|InvalidSnapshot\\.InUse|.*\\.InUse|IncorrectState|IncorrectInstanceState|.*InProgress", fault.Busy, "something uses it"),
	when("IdempotentParameterMismatch|ConflictException|InvalidAMIName\\.Duplicate|.*\\.Duplicate", fault.Exists, "the token was used for another request"),
	when("InternalError|InternalFailure|InternalServerException|ServiceUnavailable|Unavailable|RequestTimeout.*", fault.Transient, "AWS has trouble: try again"),
	when("UnsupportedOperation|Unsupported.*|.*NotSupported", fault.Unsupported, ""),
	when("Invalid.*|Missing.*|Malformed.*|Validation.*|UnknownParameter|.*Malformed|KMSKey.*|.*ParameterValue.*", fault.Invalid, ""),
}

// kindOf classifies an error of AWS's.
func kindOf(code string) (fault.Kind, string) {
	for _, r := range rules {
		if r.code.MatchString(code) {
			return r.kind, r.advice
		}
	}
	return fault.Internal, "AWS answers with a code that this program does not know"
}

// failed turns any error of a call into one of ours. One that is ours already is returned as it is.
func failed(op, subject string, err error, now func() time.Time) error {
	var ours *fault.Error
	if err == nil || errors.As(err, &ours) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fault.New(op, fault.Transient, subject, err)
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return withoutAnswer(op, subject, err)
	}
	kind, advice := kindOf(api.ErrorCode())
	if skew, ok := skewOf(err, now); ok && kind == fault.Denied && skew.Abs() > maxSkew {
		advice = fmt.Sprintf("this host's clock is %s AWS's: set it (chrony, timesyncd)", aheadOrBehind(skew))
	}
	if advice != "" {
		advice = ": " + advice
	}
	return fault.New(op, kind, subject, &refusal{api.ErrorCode() + ": " + message(api.ErrorMessage()) + requestID(err) + advice, err})
}

// withoutAnswer is for calls that AWS did not answer: no credentials, or no way.
func withoutAnswer(op, subject string, err error) error {
	text := err.Error()
	if strings.Contains(text, "get identity") || strings.Contains(text, "refresh cached credentials") || strings.Contains(text, "shared config profile") {
		return fault.Newf(op, fault.Denied, subject, "the SDK's chain gives no credentials: %w", err)
	}
	return fault.New(op, fault.Transient, subject, err)
}

var encoded = regexp.MustCompile(`(?i)encoded authorization failure message: \S+`)

// message leaves out what AWS encodes: it tells of the policy, and is long.
func message(text string) string {
	return encoded.ReplaceAllString(text, "the encoded authorization message is left out, CloudTrail has it")
}

func requestID(err error) string {
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.RequestID != "" {
		return " (request " + response.RequestID + ")"
	}
	return ""
}

// maxSkew is how far off AWS lets a clock be, less a minute.
const maxSkew = 4 * time.Minute

// skewOf is how far this host's clock is ahead of the one in AWS's answer.
func skewOf(err error, now func() time.Time) (time.Duration, bool) {
	var response *awshttp.ResponseError
	if !errors.As(err, &response) || response.Response == nil {
		return 0, false
	}
	theirs, parseErr := http.ParseTime(response.Response.Header.Get("Date"))
	if parseErr != nil {
		return 0, false
	}
	return now().Sub(theirs), true
}

// code is the error's code at AWS, "" when it has none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func isNotFound(err error) bool {
	kind, _ := kindOf(code(err))
	return code(err) != "" && kind == fault.NotFound
}

// refusal is AWS's error with a text of ours; what it was stays to be looked at.
type refusal struct {
	text  string
	cause error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.cause }
