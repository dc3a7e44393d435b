"""The file that ms-swift's --external_plugins loads: it registers the reward `burnish_judge`, see `for_swift`."""

from swift.rewards import orms

from reward_vlm.rl.for_swift import register

register(orms)
