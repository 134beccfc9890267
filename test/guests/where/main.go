// SPDX-License-Identifier: Apache-2.0

// Command where builds the guests, if they are not there, and prints their directory.
package main

import (
	"fmt"
	"os"

	"github.com/libwasmshim/libwasmshim/test/guests"
)

func main() {
	dir, err := guests.Dir()
	if err != nil {
		fmt.Fprintln(os.Stderr, "where:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
