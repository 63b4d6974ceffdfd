"""What is wanted and what is seen, as frozen values. The glossary of the project.

application
    A named group of deployments that is deployed, updated and deleted as one.
deployment
    One class or function of an application and how many copies of it should run.
ingress
    The deployment of an application that answers its HTTP requests.
replica
    One operating-system process that runs one copy of a deployment.
route prefix
    The path under which an application is reached over HTTP, for example ``/shop``.
handle
    A Python object that sends calls to a deployment.
router
    The part of a process that chooses a replica for each call to one deployment.
ongoing requests
    Calls that a replica has accepted and not finished.
goal
    What the user asked for. Only a deploy, a delete or a scaling decision changes it.
observed
    What exists: replicas and their states. Only events change it.
version
    Identifies code, arguments and options that need a new process; replicas of another
    version are replaced.
"""
