"""All of them: where they are, and which topic of a certificate should find them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A component, wrong or right.

    Attributes:
        target: its dotted name.
        axis: whose option it is.
        topic: what a certificate should say is wrong with it; "" of one that is right.
        check: that finds it, or that may not find anything.
        overrides: of the config in which it stands.
    """

    target: str
    axis: str
    topic: str = ""
    check: str = ""
    overrides: tuple[str, ...] = ()


# The checks of a certificate that are about a topic.
CHECKS: dict[str, tuple[str, ...]] = {
    "future": ("future", "ahead", "cut"),
    "padding": ("padding", "cut"),
    "batch": ("batch",),
    "state": ("repeats", "lengths", "microbatches"),
    "draws": ("repeats", "seeds", "resume", "order"),
    "resume": ("resume", "copies"),
    "gradients": ("gradients", "differences"),
    "parameters": ("registered", "copies"),
    "seed": ("registered", "seeds"),
    "dtypes": ("dtypes", "float64"),
    "finite": ("extremes", "runs", "dtypes"),
    "in_place": ("memory", "manners", "runs"),
    "compile": ("compile",),
    "lengths": ("lengths", "runs"),
    "device": ("devices",),
    "says": ("claims", "visits"),
    "effect": ("differs", "parameters", "descends"),
    "settings": ("effects", "settings"),
    "identity": ("identity",),
    "sharding": ("claims", "shards"),
    "cost": ("cost", "flops", "cache"),
    "decoding": ("decoding",),
    "groups": ("groups", "rates"),
    "descends": ("descends",),
    "range": ("rates",),
}


SUSPECTED = {"optimizer": "resume", "schedule": "rates", "residual": "repeats", "position": "repeats"}


def wrong() -> Iterator[Entry]:
    """The wrong ones."""
    for line in _BUGS.strip().splitlines():
        target, axis, topic, *check = line.split()
        yield Entry(f"bugs.{target}", axis, topic, *(check or CHECKS[topic][:1]))


def right() -> Iterator[Entry]:
    """Those that are right."""
    for line in _DECOYS.strip().splitlines():
        target, axis, *overrides = line.split()
        yield Entry(f"decoys.{target}", axis, "", SUSPECTED.get(axis, "gradients"), tuple(overrides))


_BUGS = """
future.NextTokenVisible           attention     future
future.MaskedAfterSoftmax         attention     future
future.MaskedByZero               attention     future
future.SoftmaxOverQueries         attention     future
future.MaskTransposed             attention     future
future.TopKBeforeMask             attention     future
future.KeysChooseQueries          attention     future
future.NormedOverSequence         attention     future
future.CentredConvolution         attention     future
future.BlockSeenTooSoon           attention     future
future.LongShift                  attention     future
future.SortedKeys                 attention     future
future.LastTokenSummary           attention     future
future.FutureInTraining           attention     future
future.FarFuture                  attention     future
future.FutureByMaximum            attention     future
long.BlockEdge                    attention     future
long.LongestSeen                  attention     future        cut
long.LongWithoutMask              attention     padding
long.CacheOf128                   attention     decoding
long.LargeInLong                  attention     finite
long.LossOfLongBatches            attention     batch         microbatches
lengths.JoinedWithoutTransposing  attention     future
lengths.WholeChunkSeen            attention     future
lengths.BothDirections            attention     future
lengths.FourierMixing             feed_forward  future
lengths.CircularConvolution       attention     future
lengths.DividedByLength           attention     future
lengths.ScaledByLength            attention     future
lengths.StretchedTable            position      future
padding.PaddingSeen               attention     padding
padding.PaddingInverted           attention     padding
padding.PaddingLosesCausality     attention     future
padding.NaNOfNothing              attention     padding
padding.PaddingInRunningMean      attention     padding
padding.PaddingInState            attention     padding
padding.PaddingInSummary          layer_fusion  padding
padding.PaddingInPenalty          feed_forward  padding
batches.BatchThreshold            activation    batch
batches.BatchNormed               norm          batch
batches.BatchNormedAlways         norm          batch
batches.BatchAsSequence           position      batch
batches.Capacity                  feed_forward  batch
batches.MixedUpHeads              attention     batch
batches.Remembers                 attention     state
batches.MaskOfTheFirstCall        attention     state padding
batches.NoiseInEvaluation         attention     draws
batches.DropoutInEvaluation       attention     draws
batches.RandomSlopes              activation    draws
batches.SeededByTime              attention     draws
batches.DropsLayersByPython       residual      draws
batches.OwnGenerator              activation    resume
batches.MeanOfTheBatch            layer_fusion  batch
batches.ShiftedByLongestSample    attention     batch future
parameters.NeverUsed              attention     gradients
parameters.ParametersInAList      attention     parameters
parameters.PlainTable             attention     parameters
parameters.LayersInADict          activation    parameters
parameters.DrawnByConstructor     attention     seed
parameters.AlwaysTheSameStart     attention     seed seeds
parameters.StartOfAnyGenerator    attention     seed seeds
parameters.DetachedIndexer        attention     gradients
parameters.ChoiceWithoutGradient  attention     gradients
parameters.HardGate               activation    gradients
parameters.Step                   activation    gradients
parameters.TwoGatesOfZero         residual      gradients
parameters.MixNeverApplied        residual      gradients
parameters.WeightsLeftAside       layer_fusion  gradients
parameters.FactorForgotten        norm          gradients
parameters.DetachedSkip           residual      gradients differences
parameters.ExpertsWithTrainedBias feed_forward  gradients
parameters.PenaltyDetached        objective     gradients padding
parameters.SharedBySetattr        attention     gradients
parameters.FrozenByMistake        attention     gradients
numbers.SingleOnly                attention     dtypes
numbers.LosesDouble               attention     dtypes float64
numbers.SingleBuffer              attention     dtypes
numbers.BareExponential           attention     finite
numbers.Mish                      activation    finite
numbers.SwishByHand               activation    finite
numbers.RootOfZero                activation    finite
numbers.VarianceByDifference      norm          finite
numbers.NormInPlace               norm          in_place
numbers.AddsInPlace               residual      in_place runs
numbers.MaskInPlace               attention     in_place
numbers.CompiledWithoutMask       attention     compile
numbers.ReadsAValue               activation    batch
numbers.ByNumpy                   activation    gradients
numbers.PinnedLength              attention     lengths
numbers.OnTheCPU                  attention     device
numbers.ScaledByWholeTensor       feed_forward  batch
effect.NotScaled                  attention     says visits
effect.SeesMoreThanItSays         attention     says visits
effect.WindowNeverApplied         attention     effect
effect.GlobalTokensForgotten      attention     settings
effect.Rectified                  activation    effect
effect.LeakOfAConstant            activation    settings
effect.EpsIgnored                 norm          settings
effect.LayerNormAgain             norm          effect
effect.PlainAgain                 residual      effect
effect.LastAgain                  layer_fusion  effect
effect.PositionOfZero             position      effect parameters
effect.NoIdentityAtTheStart       residual      identity
effect.HeadsThatTalk              attention     sharding
effect.UnitsThatTalk              activation    sharding
effect.SaysInactive               feed_forward  cost          differs
effect.CheapOnMeta                attention     cost flops
effect.HiddenProducts             activation    cost          dtypes
effect.KernelWithOtherMask        attention     future
effect.ValuesOfNobody             residual      effect
decoding.OwnKeyForgotten          attention     decoding
decoding.WindowKeptShort          attention     decoding
decoding.CacheNeverFilled         attention     decoding
decoding.CacheSaysLess            attention     cost cache
decoding.RotatedFromZero          attention     decoding
decoding.StateNotKept             attention     decoding
decoding.GuessesStay              attention     decoding
decoding.SummaryOfNewTokens       layer_fusion  decoding
decoding.ShiftWithoutCache        feed_forward  decoding
decoding.OneTooFar                position      decoding
decoding.OffsetIgnored            position      decoding
decoding.PairsMixed               position      says
decoding.KeysNotRotated           position      says
decoding.RandomOffset             position      batch
counts.DearOnMeta                 attention     cost flops
counts.OneExpertOnMeta            feed_forward  cost flops
counts.NoGradientOnMeta           feed_forward  cost flops
counts.CheapWhenDecoded           attention     cost flops
counts.CacheForgetsValues         attention     cost cache
counts.CacheOfAllHeads            attention     cost cache
counts.CacheOfAWindow             attention     cost cache
counts.CacheRoundedUp             attention     cost cache
counts.NoNumbers                  attention     cost cache
counts.KeptInAList                attention     cost cache
counts.KeptOnTheModule            attention     cost cache
counts.SummaryUncounted           layer_fusion  cost cache
counts.DearWhenWarm               attention     cost          flops
lengths.HeadsNotRepeated          attention     lengths       runs
routing.ExpertsChooseTokens       feed_forward  future
routing.TokensMixedUp             feed_forward  future
routing.ExpertsWithBiasThatWeighs feed_forward  says
routing.LoadsInPython             feed_forward  resume
routing.SqueezedOverSequence      feed_forward  future
routing.ShiftedTheWrongWay        feed_forward  future
routing.NextTokenById             feed_forward  future
routing.NormedOverTokens          norm          future
routing.SoftmaxOverTokens         layer_fusion  future
routing.SummaryOfEverything       layer_fusion  future
routing.NextTokensStream          residual      future
routing.StreamsByToken            residual      future
routing.HighwayOverBatch          residual      batch
memory.RunningMeanNotSaved        activation    resume
memory.RunningMeanInPython        activation    resume
memory.FollowsInEvaluation        activation    state
memory.AnnealedByCalls            activation    resume
memory.ResampledByCount           activation    resume
objectives.AsksForWhatItSees      objective     future ahead
objectives.SeesWhatIsAsked        objective     future ahead
objectives.IgnoredTargetsCount    objective     padding
objectives.SumOfAllPasses         objective     state
objectives.PenaltyNotFinite       objective     finite runs
objectives.BoundOverTokens        objective     future
objectives.NotRegistered          objective     parameters
modalities.MissingOnesJoin        modal_fusion  padding
modalities.MeetsAgainstItsWord    modal_fusion  says
modalities.NeverMeets             modal_fusion  says
modalities.GateOfTheBatch         modal_fusion  batch
modalities.GateNeverUsed          modal_fusion  gradients
modalities.MaskOfTheWrongPlace    modal_fusion  padding
modalities.EarlyAgain             modal_fusion  effect
training.DecaysAll                optimizer     groups
training.RateOfTheDefaults        optimizer     groups
training.BetaIgnored              optimizer     settings
training.ForgetsItsState          optimizer     resume
training.CountsByItself           optimizer     resume
training.LeavesTheClosure         optimizer     effect
training.Ascends                  optimizer     descends
training.NoisyByTheClock          optimizer     draws resume
training.FirstGroupOnly           optimizer     groups
training.BetasSwapped             optimizer     settings
training.GradientsKeptInPlace     optimizer     in_place
training.negative_in_the_end      schedule      range
training.counts_by_itself         schedule      resume
training.never_moves              schedule      settings
training.OneRateForAll            schedule      groups
training.length_ignored           schedule      settings
training.NegativeWhenShort        schedule      range
training.IdleBesideALiveOne       schedule      settings
training.DrawsItsRate             schedule      draws
"""

_DECOYS = """
attention.Softened            attention
attention.MaskedBehind        attention
attention.WithoutParameters   attention
attention.Kernelised          attention
attention.Convolved           attention
attention.Convolved           attention     task=listops
parts.GateFromZero        residual
parts.ZeroOutput          feed_forward
parts.StochasticDepth     residual
parts.StraightThrough     activation
parts.FollowsItsInputs    activation
parts.Annealed            activation
parts.LearnedSlope        activation
parts.AlwaysPositive      activation
ends.MeanSize            norm
ends.JitteredPosition    position
parts.SoftExperts         feed_forward
parts.ById                feed_forward
parts.TokenRows           feed_forward
parts.Narrow              feed_forward
ends.FirstAndLast        layer_fusion
ends.ConfidenceAsked     objective
ends.WeighedModalities   modal_fusion
training.Momentum            optimizer
training.Signs               optimizer
training.staircase           schedule
"""
