// SPDX-License-Identifier: Apache-2.0

// Program initialize-go is a reactor, of which prepare makes a table and serve uses it.
package main

import (
	"fmt"
	"os"
	"time"
)

var (
	table = map[string]int{}
	begun time.Time
)

//go:wasmexport prepare
func prepare() {
	for i := range 1000 {
		table[fmt.Sprint(i)] = i
	}
	begun = time.Now()
}

//go:wasmexport serve
func serve() {
	_, err := os.ReadFile("/etc/motd")
	time.Sleep(time.Millisecond)
	fmt.Printf("%d %d; file %t, variable %q, arguments %d, back %t\n", len(table), table["777"], err == nil, os.Getenv("NAME"), len(os.Args),
		time.Since(begun) <= 0)
}

func main() {}
