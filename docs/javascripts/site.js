// The theme wraps tables in boxes that scroll and gives code a bar of buttons: the keyboard must reach the former, and
// whoever is read to must be able to tell the latter apart.
function mend() {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) box.tabIndex = 0
  document.querySelectorAll(".md-code__nav").forEach((bar, number) => {
    if (!bar.hasAttribute("aria-label")) bar.setAttribute("aria-label", `Code block ${number + 1}`)
  })
}
new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true })
mend()
