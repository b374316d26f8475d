package plans

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"go.yaml.in/yaml/v3"
)

// native turns CEL's value into what documents hold: text, bool, int64, float64, []any,
// map[string]any or nil. Durations and timestamps become text as documents write them, and whole
// numbers int64, since the doubles of receipts are whole more often than not.
func native(value ref.Val) (any, error) {
	switch v := value.(type) {
	case types.String:
		return string(v), nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		if v > math.MaxInt64 {
			return nil, errors.New("the number does not fit")
		}
		return int64(v), nil
	case types.Double:
		return number(float64(v))
	case types.Duration:
		return Duration(v.Duration).String(), nil
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Null:
		return nil, nil
	case traits.Mapper:
		return nativeMap(v)
	case traits.Lister:
		return nativeList(v)
	default:
		return nil, fmt.Errorf("a %s can't be a setting", value.Type().TypeName())
	}
}

// number keeps floats that are whole as int64, as far as doubles are exact.
func number(f float64) (any, error) {
	const exact = 1 << 53
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return nil, errors.New("want a finite number")
	case f == math.Trunc(f) && math.Abs(f) <= exact:
		return int64(f), nil
	default:
		return f, nil
	}
}

func nativeList(list traits.Lister) (any, error) {
	out := []any{}
	for it := list.Iterator(); it.HasNext() == types.True; {
		element, err := native(it.Next())
		if err != nil {
			return nil, err
		}
		out = append(out, element)
	}
	return out, nil
}

func nativeMap(mapping traits.Mapper) (any, error) {
	out := map[string]any{}
	for it := mapping.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, ok := key.(types.String)
		if !ok {
			return nil, errors.New("want text as the keys of a mapping")
		}
		element, err := native(mapping.Get(key))
		if err != nil {
			return nil, err
		}
		out[string(name)] = element
	}
	return out, nil
}

// inText writes a value that stands inside a text.
func inText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case nil:
		return "", errors.New("there is no value to put into the text")
	default:
		return "", errors.New("a list or a mapping can't be put into a text")
	}
}

// fitsText reports whether values of a type can be put into a text, as far as the type is known.
func fitsText(found *cel.Type) bool {
	switch found.Kind() {
	case types.StringKind, types.IntKind, types.UintKind, types.DoubleKind, types.BoolKind, types.DurationKind,
		types.TimestampKind, types.DynKind, types.AnyKind, types.TypeParamKind:
		return true
	default:
		return false
	}
}

var (
	durationType    = reflect.TypeFor[Duration]()
	unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()
)

// readsItself reports whether a type reads its own YAML.
func readsItself(field reflect.Type) bool {
	return reflect.PointerTo(field).Implements(unmarshalerType)
}

// fits reports whether values of a CEL type can fill a field, as far as the type is known.
func fits(field reflect.Type, found *cel.Type) bool {
	kind := found.Kind()
	if kind == types.DynKind || kind == types.AnyKind || kind == types.TypeParamKind || kind == types.NullTypeKind {
		return true
	}
	if field == durationType {
		return kind == types.DurationKind || kind == types.StringKind
	}
	if readsItself(field) {
		return fitsText(found)
	}
	switch field.Kind() {
	case reflect.Pointer:
		return fits(field.Elem(), found)
	case reflect.Interface:
		return fitsAnything(found)
	case reflect.Slice:
		return kind == types.ListKind && fits(field.Elem(), found.Parameters()[0])
	case reflect.Map:
		return kind == types.MapKind && isText(found.Parameters()[0]) && fits(field.Elem(), found.Parameters()[1])
	case reflect.Struct:
		return kind == types.MapKind && isText(found.Parameters()[0])
	case reflect.String:
		return kind == types.StringKind
	case reflect.Bool:
		return kind == types.BoolKind
	case reflect.Float32, reflect.Float64:
		return kind == types.DoubleKind || kind == types.IntKind || kind == types.UintKind
	default:
		return kind == types.IntKind || kind == types.UintKind
	}
}

// fitsAnything is fits for a field that takes whatever documents can hold.
func fitsAnything(found *cel.Type) bool {
	switch found.Kind() {
	case types.ListKind:
		return fits(reflect.TypeFor[any](), found.Parameters()[0])
	case types.MapKind:
		return isText(found.Parameters()[0]) && fits(reflect.TypeFor[any](), found.Parameters()[1])
	default:
		return fitsText(found)
	}
}

func isText(key *cel.Type) bool {
	return key.Kind() == types.StringKind || key.Kind() == types.DynKind || key.Kind() == types.TypeParamKind
}

// fieldName says in words what a field takes.
func fieldName(field reflect.Type) string {
	switch {
	case field == durationType:
		return "a duration"
	case readsItself(field):
		return "text"
	}
	switch field.Kind() {
	case reflect.Pointer:
		return fieldName(field.Elem())
	case reflect.Slice:
		return "a list with " + fieldName(field.Elem())
	case reflect.Map, reflect.Struct:
		return "a mapping"
	case reflect.Interface:
		return "text, a number, true or false, a list or a mapping"
	default:
		return kindName(field.Kind())
	}
}
