"""Does each component do what it claims? Figures and pictures taken from a model at work, without disturbing it.

* `attention/keys_visited`: keys that a query gives any weight to, mean over queries
* `attention/mass_captured`: share of full attention's softmax mass that lies on the visited keys, mean over queries
* `attention/effective_context`: distance in tokens between a query and the keys it attends to, weighted by attention,
  mean over queries
* `activation/zero_share`: share of the activation's outputs that are exactly zero
* `activation/dead_share`: share of hidden units that were zero for every token seen
* `position/order_sensitivity`: relative change of what the first layer's attention gives the last token of a sequence
  when all tokens before it are turned round
* `layer_fusion/weight/layer_<index>`: weight of a layer in what the head sees, mean over tokens
* `layer_fusion/entropy`: of these weights, in nats, mean over tokens
* `layer_fusion/weight_variation`: standard deviation of a weight over tokens, mean over layers, where weights are said
  to depend on the input
* `modal_fusion/<query>_from_<key>`: share of the attention of one modality's queries that another's keys get, mean over
  layers, and of each layer
* `<axis>/<name>`: whatever a component reports of itself through `mechanism()`, such as a threshold

Each is a mean over the layers, or their extreme where its name ends in `_min` or `_max`; where a model has several,
each layer's own follows as `<axis>/<name>/layer_<index>`. A component may report parts of itself as `<name>/<part>`
("span/head_0"). Parts of different layers have nothing to do with one another, and are listed by layer alone:
`<axis>/<name>/layer_<index>/<part>`.

Components take part by what they offer, not by their names: a core without `visited` has no figures on keys.
"""

from ablab.model.mechanism.probe import MechanismProbe
from ablab.model.mechanism.responses import responses

__all__ = ["MechanismProbe", "responses"]
