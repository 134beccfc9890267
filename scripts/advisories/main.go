// SPDX-License-Identifier: Apache-2.0

// Advisories compares the versions of wasmtime that are pinned here with what the
// RustSec database says of them: engines/wasmtime/advisories.toml.
package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

const (
	file = "engines/wasmtime/advisories.toml"
	lock = "engines/wasmtime/full/Cargo.lock"
	// A list that is older than this may lack something.
	fresh = 30 * 24 * time.Hour
)

func main() {
	if err := run(time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "advisories:", err)
		os.Exit(1)
	}
}

func run(now time.Time) error {
	var db database
	var locked struct{ Package []pinned }
	if err := read(file, &db); err != nil {
		return err
	}
	if err := read(lock, &locked); err != nil {
		return err
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		return err
	}
	prebuilt := regexp.MustCompile(`bytecodealliance/wasmtime-go/v\d+ v(\S+)`).FindSubmatch(mod)
	if prebuilt == nil {
		return fmt.Errorf("go.mod requires no wasmtime-go: %s is about it, too", file)
	}
	until, err := time.Parse(time.DateOnly, db.Until)
	if err != nil {
		return fmt.Errorf("%s: until: %w", file, err)
	}
	if now.Sub(until) > fresh {
		fmt.Fprintf(os.Stderr, "advisories: %s is complete until %s only; docs/security.md says how to renew it\n", file, db.Until)
	}
	return db.check(locked.Package, string(prebuilt[1]))
}

// read refuses keys that nobody looks at, but in what cargo writes.
func read(name string, to any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	if name == file {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

type database struct {
	Until    string     // the day up to which it is complete
	Prebuilt []string   // ids that are known to affect the prebuilt library
	Advisory []advisory // all of them
}

type advisory struct {
	ID, Package, Title  string
	Patched, Unaffected []string
}

// pinned is a crate and its version.
type pinned struct{ Name, Version string }

// check says what affects the crates of the full library, and what affects the
// prebuilt one, which holds all crates in one version, and is not known to.
func (db database) check(crates []pinned, prebuilt string) error {
	var found []string
	for _, a := range db.Advisory {
		for _, c := range crates {
			if c.Name != a.Package {
				continue
			}
			hit, err := a.affects(c.Version)
			if err != nil {
				return err
			}
			if hit {
				found = append(found, fmt.Sprintf("%s affects %s %s of the full library: %s; mended in %s", a.ID, c.Name, c.Version, a.Title, strings.Join(a.Patched, ", or ")))
			}
		}
		hit, err := a.affects(prebuilt)
		if err != nil {
			return err
		}
		if known := slices.Contains(db.Prebuilt, a.ID); hit != known {
			found = append(found, fmt.Sprintf("%s affects %s %s of the prebuilt library: %t, and the list of those that do says %t", a.ID, a.Package, prebuilt, hit, known))
		}
	}
	for _, id := range db.Prebuilt {
		if !slices.ContainsFunc(db.Advisory, func(a advisory) bool { return a.ID == id }) {
			found = append(found, fmt.Sprintf("%s is in the list of the prebuilt library and nowhere else", id))
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%s", strings.Join(found, "\n"))
	}
	return nil
}

func (a advisory) affects(version string) (bool, error) {
	for _, ranges := range [][]string{a.Patched, a.Unaffected} {
		for _, r := range ranges {
			if in, err := within(version, r); err != nil || in {
				return false, err
			}
		}
	}
	return true, nil
}

// within says whether a version is in a range like ">= 1.2.3, < 2.0.0".
func within(version, accepted string) (bool, error) {
	v, err := numbers(version)
	if err != nil {
		return false, err
	}
	for bound := range strings.SplitSeq(accepted, ",") {
		operator, limit, _ := strings.Cut(strings.TrimSpace(bound), " ")
		l, err := numbers(limit)
		if err != nil {
			return false, err
		}
		c := slices.Compare(v, l)
		var ok bool
		switch operator {
		case ">=":
			ok = c >= 0
		case "<":
			ok = c < 0
		default:
			return false, fmt.Errorf("range %q: found operator %q, accepted: >=, <", accepted, operator)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

func numbers(version string) ([]int, error) {
	n := make([]int, 3)
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &n[0], &n[1], &n[2]); err != nil {
		return nil, fmt.Errorf("version %q: accepted: three numbers: %w", version, err)
	}
	return n, nil
}
