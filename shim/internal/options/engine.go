// SPDX-License-Identifier: Apache-2.0

package options

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Type says what values an engine option takes. The numbers are those of
// wasm_shim.h.
type Type uint32

// The types. Each says in what form the engine gets a value.
const (
	String   Type = iota // as it was given
	Boolean              // "true" or "false"
	Integer              // decimal
	Size                 // bytes, decimal
	Duration             // milliseconds, decimal
	Choice               // one of Declaration.Choices
)

// Declaration is one engine option that may be set.
type Declaration struct {
	Key                string // unique within the engine
	Help               string // one line
	Type               Type
	Choices            []string // what a Choice chooses from
	AffectsCompilation bool     // the value is part of the compile cache's key

	PresenceAffectsCompilation bool // whether there is a value is part of the compile cache's key
}

// Preopens is the option that every engine has: the core reads it, and hands
// the directories to the engine.
var Preopens = Declaration{
	Key:  "preopens",
	Help: `directories that the guest gets, "HOST[:GUEST],...", both in the container; the default is "/", [] is none`,
}

// find returns the declaration of a key.
func find(key string, engine []Declaration) (Declaration, error) {
	if key == Preopens.Key {
		return Preopens, nil
	}
	known := []string{Preopens.Key}
	for _, d := range engine {
		if d.Key == key {
			return d, nil
		}
		known = append(known, d.Key)
	}
	slices.Sort(known)
	return Declaration{}, invalid("unknown engine option %q; the engine knows: %s", key, strings.Join(known, ", "))
}

// Value checks a value of an engine option and returns it in the form that the
// engine gets.
func Value(key, value string, engine []Declaration) (string, error) {
	d, err := find(key, engine)
	if err != nil {
		return "", err
	}
	bad := func(accepted string) error {
		return invalid("engine option %s: found %q, accepted: %s", key, value, accepted)
	}
	if strings.IndexByte(value, 0) >= 0 {
		return "", bad("text without a NUL byte")
	}
	switch d.Type {
	case Boolean:
		if value != "true" && value != "false" {
			return "", bad("true, false")
		}
	case Integer:
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return "", bad("a whole number from 0 to 18446744073709551615")
		}
		return strconv.FormatUint(n, 10), nil
	case Size:
		n, ok := ParseSize(value)
		if !ok {
			return "", bad("a number of bytes, or of KiB, MiB, GiB, as in 64MiB")
		}
		return strconv.FormatUint(n, 10), nil
	case Duration:
		t, err := time.ParseDuration(value)
		if err != nil || t < 0 || t%time.Millisecond != 0 {
			return "", bad("a duration in whole milliseconds, as in 1m30s, 5s, 250ms")
		}
		return strconv.FormatInt(t.Milliseconds(), 10), nil
	case Choice:
		if !slices.Contains(d.Choices, value) {
			return "", bad(strings.Join(d.Choices, ", "))
		}
	}
	if key == Preopens.Key {
		if _, err := ParsePreopens(value); err != nil {
			return "", err
		}
	}
	return value, nil
}

// units are what a size may end with. Those that mean 1000 to some and 1024 to
// others are left out.
var units = []struct {
	suffix string
	shift  uint
}{
	{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"Ki", 10}, {"Mi", 20}, {"Gi", 30}, {"", 0},
}

// ParseSize reads a number of bytes, or of one of the units.
func ParseSize(s string) (uint64, bool) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 64)
		return n << u.shift, err == nil && n <= math.MaxUint64>>u.shift
	}
	return 0, false
}

// ParseCompileMemory reads how many bytes compiling may take: 1 MiB is the least.
func ParseCompileMemory(s string) (int64, bool) {
	n, ok := ParseSize(s)
	return int64(n), ok && n >= 1<<20 && n <= math.MaxInt64
}

// ParsePreopens reads the value of Preopens. An empty one is no directory.
func ParsePreopens(value string) ([]stage.Preopen, error) {
	var all []stage.Preopen
	if value == "" {
		return nil, nil
	}
	for entry := range strings.SplitSeq(value, ",") {
		host, guest, named := strings.Cut(entry, ":")
		if !named {
			guest = host
		}
		if !path.IsAbs(host) || guest == "" {
			return nil, invalid("engine option %s: found %q, accepted: an absolute path of the container, or two as in /data:/d", Preopens.Key, entry)
		}
		if slices.ContainsFunc(all, func(p stage.Preopen) bool { return p.Guest == guest }) {
			return nil, invalid("engine option %s: %q is given twice", Preopens.Key, guest)
		}
		all = append(all, stage.Preopen{Host: host, Guest: guest})
	}
	return all, nil
}

// KeyList is what of the values makes a difference to the compiler, in the order
// of the declarations.
func KeyList(values map[string]string, engine []Declaration) []string {
	return compilation(values, engine, func(d Declaration) string { return d.Key })
}

// CompilerList is what of the values a compiler is shown, as "key=value" in the
// order of the declarations: nothing that KeyList does not tell apart, so that
// two containers with one key cannot have different artifacts. Of an option of
// which only its presence is in the key, it sees one and the same value.
func CompilerList(values map[string]string, engine []Declaration) []string {
	return compilation(values, engine, func(d Declaration) string { return d.Key + "=" + d.anyValue() })
}

// compilation lists the values that make a difference to the compiler; present is
// what is listed of an option that does so only by being there.
func compilation(values map[string]string, engine []Declaration, present func(Declaration) string) []string {
	var list []string
	for _, d := range engine {
		value, ok := values[d.Key]
		switch {
		case !ok:
		case d.AffectsCompilation:
			list = append(list, d.Key+"="+value)
		case d.PresenceAffectsCompilation:
			list = append(list, present(d))
		}
	}
	return list
}

// anyValue is a value of the option's type.
func (d Declaration) anyValue() string {
	switch d.Type {
	case Boolean:
		return "true"
	case Integer, Size, Duration:
		return "0"
	case Choice:
		return d.Choices[0]
	}
	return ""
}

// List is the values of engine options as "key=value", in the keys' order,
// without the core's own.
func List(values map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if key != Preopens.Key {
			list = append(list, fmt.Sprintf("%s=%s", key, values[key]))
		}
	}
	return list
}
